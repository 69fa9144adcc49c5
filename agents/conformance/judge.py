"""The verdict on a function: which properties of its kind it keeps, which it breaks, and which it cannot know enough to be asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .calls import Bound, Calling, Misuse
from .kinds import Case, Inputs, Kind, Property

KEPT, BROKEN, UNTOLD = "kept", "broken", "cannot be told"
LEFT_ALONE = Property(
    "inputs_are_left_alone",
    "The function writes into the arrays that it was given: the caller's rollout is not what it was.",
    "Work on copies, or on arrays of your own.",
    (),
    (),
)


class Failure(NamedTuple):
    """What showed a break."""

    case: Case
    wanted: NDArray[np.float64] | str
    got: NDArray[np.float64] | str
    raised: bool = False  # then the property's own explanation need not be the reason


class Verdict(NamedTuple):
    """On one property."""

    property: Property
    outcome: str  # KEPT, BROKEN or UNTOLD
    failure: Failure | None = None  # of the smallest input that shows the break
    untold: tuple[str, ...] = ()  # the arguments that the function would need; also where the cases that need none are kept


class Report(NamedTuple):
    """On one function."""

    kind: Kind
    verdicts: tuple[Verdict, ...]

    @property
    def broken(self) -> list[str]:
        """Return the names of the broken properties, the most telling first."""
        return [verdict.property.name for verdict in self.verdicts if verdict.outcome == BROKEN]

    @property
    def untold(self) -> list[str]:
        """Return the names of the properties that the function's arguments leave open."""
        return [verdict.property.name for verdict in self.verdicts if verdict.outcome == UNTOLD]


def judge(function: Callable[..., Any], kind: Kind, calling: Calling | None = None) -> Report:
    """Return the verdicts on `function`, a function of NumPy arrays or torch tensors.

    Args:
        function: anybody's; it is called with fresh arrays, float64 unless a case is about float32.
        kind: what it is said to be, `load("gae")`.
        calling: how its arguments and results differ from the kind's.

    Raises:
        Misuse: if it cannot be called so: names that do not fit, or an exception in every case.
    """
    bound = Bound(function, kind, calling or Calling())
    trial = _Trial(bound)
    verdicts = [trial.verdict(entry) for entry in kind.properties]
    if trial.raised and len(trial.raised) == trial.calls:
        raise Misuse(
            f"Every call raised; the first: {trial.raised[0]}.\nCheck what it takes: --map, --set, --layout batch_first, --arrays torch, --flags float."
        )
    return Report(kind, (*verdicts, trial.left_alone()))


class _Trial:
    """The calls made so far, and what was seen beside their results."""

    def __init__(self, bound: Bound) -> None:
        self.bound, self.told = bound, bound.told()
        self.calls, self.raised = 0, list[str]()
        self.written: tuple[Case, list[str]] | None = None

    def verdict(self, entry: Property) -> Verdict:
        asked = [case for case in entry.cases if case.needs <= self.told]
        lacking = tuple(sorted(frozenset().union(*(case.needs for case in entry.cases)) - self.told))
        failures = [failure for case in sorted(asked, key=lambda case: case.size) if (failure := self._failure(case))]
        if failures:
            return Verdict(entry, BROKEN, failures[0], lacking)
        return Verdict(entry, KEPT if asked else UNTOLD, None, lacking)

    def left_alone(self) -> Verdict:
        if self.written is None:
            return Verdict(LEFT_ALONE, KEPT)
        case, arrays = self.written
        return Verdict(LEFT_ALONE, BROKEN, Failure(case, "the same arrays as before", f"others in {', '.join(arrays)}"))

    def _call(self, case: Case, inputs: Inputs) -> NDArray[np.float64] | str:
        self.calls += 1
        try:
            with np.errstate(all="ignore"):
                result, written = self.bound(inputs)
        except Misuse:
            raise
        except Exception as error:  # anybody's code may raise anything, and that is a finding
            self.raised.append(f"{type(error).__name__}: {str(error).strip() or 'no message'}")
            return f"an exception, {self.raised[-1]}"
        if written and self.written is None:
            self.written = case, written
        return result

    def _failure(self, case: Case) -> Failure | None:
        got = self._call(case, case.inputs)
        if isinstance(got, str):
            return Failure(case, "a result", got, raised=True)
        if case.expected is not None:
            return _compared(case, got, case.expected, case.compare)
        other = self._call(case, {**case.inputs, **(case.other or {})})
        if isinstance(other, str):
            return Failure(case, "a result of the second call", other, raised=True)
        return _compared(case, got, other, case.compare_other)


def _compared(case: Case, got: NDArray[np.float64], wanted: NDArray[np.float64], compare_wanted: NDArray[np.bool_] | None) -> Failure | None:
    """Return the failure if two results differ where they are read, or in their shapes."""
    if case.expected is not None and got.shape != wanted.shape and got.size == wanted.size == 1:
        got = got.reshape(wanted.shape)  # a mean of shape [1] is a mean
    read, read_wanted = _read(got, case.compare), _read(wanted, compare_wanted)
    if read is None or read_wanted is None or read.shape != read_wanted.shape:
        return Failure(case, f"shape {wanted.shape}", f"shape {got.shape}")
    read_wanted = case.factor * read_wanted
    if np.allclose(read, read_wanted, rtol=case.rtol, atol=case.atol):
        return None
    return Failure(case, read_wanted, read)


def _read(array: NDArray[np.float64], where: NDArray[np.bool_] | None) -> NDArray[np.float64] | None:
    """Return the entries that count, None if the mask has another shape."""
    if where is None:
        return array
    return array[where] if array.shape == where.shape else None
