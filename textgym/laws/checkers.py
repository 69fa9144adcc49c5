"""The checkers of other libraries as laws; what they warn of is told beside their verdict."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib.util import find_spec

from gymnasium.utils.env_checker import check_env

from .verdicts import Make, NotApplicableError, Remark


def gymnasium_checker(make: Make) -> str | Remark:
    """Gymnasium's `check_env` accepts it."""
    env = make().unwrapped
    return _told(lambda: check_env(env, skip_render_check=True))


def sb3_checker(make: Make) -> str | Remark:
    """Stable-Baselines3's `check_env` accepts it."""
    if find_spec("stable_baselines3") is None:
        raise NotApplicableError("stable_baselines3 is not installed")
    from stable_baselines3.common.env_checker import check_env as check_env_of_sb3  # here: it loads torch

    env = make().unwrapped
    return _told(lambda: check_env_of_sb3(env, skip_render_check=True))


def _told(check: Callable[[], None]) -> str | Remark:
    """Run a checker, which raises what is wrong, and return what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    said = dict.fromkeys(_plain(str(each.message)) for each in caught if issubclass(each.category, UserWarning))
    return Remark(" | ".join(["it warns", *said])) if said else ""


def _plain(message: str) -> str:
    """Return a warning without colours and in one line."""
    return " ".join(re.sub(r"\x1b\[\d+m", "", message).removeprefix("WARN: ").split())
