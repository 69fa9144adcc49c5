"""`python -m textgym check`: one environment, held to the laws of `textgym.laws`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from .. import laws
from .usage import DIFFERENT, EQUAL, UsageError, import_module


def check(chosen: argparse.Namespace) -> int:
    """Print the verdict of each law on `chosen.target`; return 1 if one of them fails."""
    make = _maker(chosen.target)
    try:
        made = make()
    except Exception as error:  # a stranger's constructor may raise anything
        advice = "Name a registered id (python -m textgym list), or MODULE:NAME of a class or function without arguments."
        raise UsageError(f"{chosen.target} cannot be made: {type(error).__name__}: {error}", advice) from error
    if not isinstance(made, gym.Env):
        raise UsageError(f"{chosen.target} makes {type(made).__name__}, which is no gymnasium.Env.", "Name a class or function that makes one environment.")
    verdicts = laws.judge(make)
    print(json.dumps([verdict._asdict() for verdict in verdicts], indent=2) if chosen.json else "\n".join(map(_judged, verdicts)))
    return DIFFERENT if any(verdict.holds is False for verdict in verdicts) else EQUAL


def _maker(target: str) -> Callable[[], Any]:
    """Return what makes the environment of a registered id, or of MODULE:NAME where no id is called so."""
    module, _, name = target.partition(":")
    if not name or target in gym.registry:
        return lambda: gym.make(target).unwrapped
    import_module(module)
    factory = getattr(sys.modules[module], name, None)
    if not callable(factory):
        raise UsageError(f"{module} has no {name} that can be called.", "Name a class or function without arguments that makes the environment.")
    return lambda: factory()


def _judged(verdict: laws.Verdict) -> str:
    said = {
        True: f"ok ({verdict.reason})" if verdict.reason else "ok",
        False: f"FAILS: {verdict.reason}\n    {verdict.remedy}",
        None: f"does not apply ({verdict.reason})",
    }
    return f"{verdict.law}: {said[verdict.holds]}"
