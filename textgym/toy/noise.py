"""Gaussian noise out of a row's one stream of uniform numbers.

One uniform number makes one normal number, so that a stream still holds one kind of draw with one cursor; the rejection methods
of NumPy's own generator take a varying number of draws. SciPy has the function (`ndtri`), but is no dependency of `textgym`.
Axis legend: B numbers.
"""

from __future__ import annotations

import numpy as np

from ..core import FloatArray

SMALLEST = 2.0**-54  # stands in for a draw of exactly 0, whose quantile would be -infinity: half the step between two draws

# Numerators and denominators, highest power first: the middle (|p - 1/2| <= 0.425), the tails, and the far tails (p below exp(-25)).
# fmt: off
_MIDDLE = (
    (
        2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987,
        13731.69376550946, 1971.5909503065513, 133.14166789178438, 3.3871328727963665,
    ),
    (
        5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597,
        5394.196021424751, 687.1870074920579, 42.31333070160091, 1.0,
    ),
)
_TAIL = (
    (
        0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684,
        3.6478483247632045, 5.769497221460691, 4.630337846156546, 1.4234371107496835,
    ),
    (
        1.0507500716444169e-09, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008,
        0.6897673349851, 1.6763848301838038, 2.053191626637759, 1.0,
    ),
)
_FAR = (
    (
        2.0103343992922881e-07, 2.7115555687434876e-05, 0.0012426609473880784, 0.026532189526576124,
        0.29656057182850487, 1.7848265399172913, 5.463784911164114, 6.657904643501103,
    ),
    (
        2.0442631033899397e-15, 1.421511758316446e-07, 1.8463183175100548e-05, 0.0007868691311456133,
        0.014875361290850615, 0.1369298809227358, 0.599832206555888, 1.0,
    ),
)
# fmt: on
_Ratio = tuple[tuple[float, ...], tuple[float, ...]]


def normal_quantile(uniform: FloatArray) -> FloatArray:
    """Return the standard normal quantiles of `uniform` [B] in [0, 1), to a relative error of about 1e-16.

    Wichura (1988), Algorithm AS 241, PPND16, Applied Statistics 37(3): the method of `statistics.NormalDist.inv_cdf`, which takes one number at a time.
    """
    p = np.maximum(uniform, SMALLEST)
    q = p - 0.5
    found = q * _ratio(_MIDDLE, 0.180625 - q * q)
    outside = np.flatnonzero(np.abs(q) > 0.425)
    found[outside] = np.copysign(_tails(np.minimum(p[outside], 1.0 - p[outside])), q[outside])
    return found


def _tails(p: FloatArray) -> FloatArray:
    r = np.sqrt(-np.log(p))
    found = _ratio(_TAIL, r - 1.6)
    far = np.flatnonzero(r > 5.0)
    found[far] = _ratio(_FAR, r[far] - 5.0)
    return found


def _ratio(polynomials: _Ratio, x: FloatArray) -> FloatArray:
    above, below = (_horner(coefficients, x) for coefficients in polynomials)
    return above / below


def _horner(coefficients: tuple[float, ...], x: FloatArray) -> FloatArray:
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total
