"""What a law is, and what it may say of an environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym

from .playing import UnplayableError

PLAYABLE = "Mend that first: no law can be judged before reset(seed=, options=) and step(action) run, and return what gymnasium.Env says."
Make = Callable[[], gym.Env[Any, Any]]


class Verdict(NamedTuple):
    """What one law says of one environment."""

    law: str
    holds: bool | None  # None: the law does not apply
    reason: str = ""  # what was seen, or why the law does not apply; of a law that holds: a remark, if there is one
    remedy: str = ""  # what to fix


class Remark(NamedTuple):
    """What is worth telling though the law holds."""

    text: str


class Law(NamedTuple):
    """One law: its name, who judges it, and what to fix where it fails."""

    name: str
    judge: Callable[[Make], str | Remark]  # returns what is wrong, "" if nothing is; raises `NotApplicableError`
    remedy: str


class NotApplicableError(Exception):
    """A law that is not about this kind of environment: the message says why."""


def verdict(law: Law, make: Make) -> Verdict:
    """Return what `law` says of the environments of `make`, which are closed afterwards; whatever they raise is told, too."""
    try:
        with contextlib.ExitStack() as stack:
            found = law.judge(lambda: stack.enter_context(contextlib.closing(make())))
    except NotApplicableError as error:
        return Verdict(law.name, None, str(error))
    except UnplayableError as error:
        return Verdict(law.name, False, str(error), PLAYABLE)
    except Exception as error:  # a stranger's environment may raise anything, and a checker's assertion is its verdict
        found = f"{type(error).__name__}: {error}"
    if isinstance(found, Remark):
        return Verdict(law.name, True, found.text)
    return Verdict(law.name, not found, found, law.remedy if found else "")
