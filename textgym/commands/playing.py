"""`python -m textgym play`: one episode, token by token, by a person at the keyboard or by uniform random actions."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from ..core import Core
from ..episodes import TextCore
from ..suite.returns import Known, known_returns
from ..toy.path_core import PathCore
from .listing import ENTRY_POINT, question
from .tokens import MistypedError, allowed_ids, check_allowed, draw, listed, read, sizes, spelled
from .usage import EQUAL, UsageError

TYPED = "Type a word or an id (#7), or several; ? lists what is allowed, an empty line draws one at random, q quits."
Action = list[int]  # one id, or those of a chunk


class Played(NamedTuple):
    """What became of the episode."""

    steps: int
    total: float  # the return, not discounted
    end: str  # "terminated", "truncated", "stopped" by the person
    info: dict[str, Any]


def play(chosen: argparse.Namespace) -> int:
    """Play one episode of `chosen.id`, and print it step by step; at random with `chosen.random`, or where nobody is at the keyboard."""
    env = _made(chosen.id, _options(chosen.options))
    core = env.unwrapped.core  # type: ignore[attr-defined]
    sizes(core)
    seed = int(np.random.default_rng().integers(2**31)) if chosen.seed is None else chosen.seed
    begin = _beginning(core, chosen.prompt)
    try:
        env.reset(seed=seed, options=begin)
    except ValueError as error:
        raise UsageError(f"{chosen.id} cannot begin so: {error}", "Give another --prompt, another --seed, or other --options.") from error
    by_hand = sys.stdin.isatty() and not chosen.random
    assert env.spec is not None
    print(f"{chosen.id}, seed {seed}: {question(env.spec)}", *([TYPED] if by_hand else []), sep="\n")
    generator = np.random.default_rng(np.random.SeedSequence([seed, 1]))  # not the environment's own stream
    played = _episode(env, core, _typed(core, generator) if by_hand else _drawn(core, generator), by_hand)
    _print_end(played, known_returns(core) if env.spec.max_episode_steps is None else Known())
    return EQUAL


# --- before it begins


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--options {text!r} is no JSON: {error}.", """Write an object, for instance --options '{"max_new_tokens": 8}'.""") from error
    if not isinstance(options, dict):
        raise UsageError(f"--options {text!r} is no object.", """Write one, for instance --options '{"max_new_tokens": 8}'.""")
    return options


def _made(id: str, options: dict[str, Any]) -> gym.Env[Any, Any]:
    known = "python -m textgym list shows the tasks there are; --import MODULE registers your own."
    try:
        spec = gym.spec(id)
    except (gym.error.Error, ImportError) as error:
        raise UsageError(f"{id} cannot be made: {error}", known) from error
    if spec.entry_point != ENTRY_POINT:
        raise UsageError(f"{id} is no task of textgym.", known)
    try:
        return gym.make(id, disable_env_checker=True, **options)
    except Exception as error:  # options may go wrong in any way
        cause = error.__cause__ or error  # Gymnasium says it once more, with all options
        core = str(spec.kwargs["core"]).replace(":", ".")
        raise UsageError(f"{id} cannot be made: {type(cause).__name__}: {cause}", f"python -m pydoc {core} explains its --options.") from error


def _beginning(core: Any, index: int | None) -> dict[str, Any]:
    """Return the options of reset that choose the prompt, or the map, of this index."""
    if index is None:
        return {}
    if not isinstance(core, TextCore | PathCore):
        raise UsageError("This task has no prompts to choose from.", "Leave --prompt away.")
    return {"prompt" if isinstance(core, TextCore) else "map": index}


# --- who plays


def _drawn(core: Core, generator: np.random.Generator) -> Iterator[Action]:
    while True:
        yield draw(core, generator)


def _typed(core: Core, generator: np.random.Generator) -> Iterator[Action]:
    """Yield what a person types, until the end of input; what cannot be played is answered, and asked again."""
    while True:
        line = input("> ")
        command, _, rest = line.strip().partition(" ")
        if not line:
            yield draw(core, generator)
        elif line.strip() == "q":
            return
        elif command == "?":
            print(*listed(core, rest.strip(), shutil.get_terminal_size().columns), sep="\n")
        else:
            try:
                for action in read(core, line):
                    check_allowed(core, action)
                    yield action
            except MistypedError as error:
                print(error)


# --- the episode


def _episode(env: gym.Env[Any, Any], core: Core, actions: Iterator[Action], by_hand: bool) -> Played:
    steps, total, info = 0, 0.0, dict[str, Any]()
    try:
        _print_state(core, steps, drawing=True)
        for action in actions:
            _, reward, terminated, truncated, info = env.step(action[0] if len(action) == 1 else np.array(action))
            steps, total, over = steps + 1, total + float(reward), terminated or truncated
            print(f"{' '.join(spelled(core, token) for token in action)}: reward {float(reward):.6g}, return {total:.6g}")
            _print_state(core, steps, drawing=by_hand or over, over=over)
            if over:
                return Played(steps, total, "terminated" if terminated else "truncated", info)
    except ValueError as error:
        raise UsageError(f"The task refuses to go on: {error}", "Make it with other --options.") from error
    except (EOFError, KeyboardInterrupt):
        print()
    return Played(steps, total, "stopped", {})


def _print_state(core: Core, steps: int, drawing: bool, over: bool = False) -> None:
    """Print how the episode stands; a drawing of several lines (a map) only with `drawing`: a random walk is long."""
    drawn = str(core.render(0, "ansi")) if "ansi" in core.render_modes else f"observation {core.observe(slice(None))[0]}"
    if drawing or "\n" not in drawn:
        print(drawn)
    if not over:
        print(f"{_budget(core, steps)}{len(allowed_ids(core))} of {sizes(core)[0]} ids allowed")


def _budget(core: Any, steps: int) -> str:
    """Return how many tokens or steps are left, and a semicolon; nothing where the task has no limit that is known here."""
    if isinstance(core, TextCore):
        written = int(core.completions(np.array([0])).own.lengths[0])
        return f"{_counted(core.task.max_new_tokens - written, 'token')} left; "
    limit = getattr(getattr(core, "task", None), "max_steps", getattr(core, "horizon", None))
    return "" if limit is None else f"{_counted(limit - steps, 'step')} left; "


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_end(played: Played, known: Known) -> None:
    told = [f"{name} {value:.4g}" for name, value in known._asdict().items() if value is not None]
    expected = f" (expected: {', '.join(told)})" if told else ""
    print(f"{played.end} after {_counted(played.steps, 'step')}: return {played.total:.6g}{expected}")
    facts = [f"{name} {value:.6g}" for name, value in played.info.items() if isinstance(value, bool | int | float)]
    if facts:
        print(", ".join(facts))
