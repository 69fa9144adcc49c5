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
_MIDDLE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457)
    + (13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867)
    + (5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)
_TAIL = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258)
    + (3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459)
    + (0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093)
    + (0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4)
    + (0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)
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
