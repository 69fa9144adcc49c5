"""The commands of `python -m agents`, what they are told, and what is said where that is wrong.

Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage. The first line of an error says what is wrong, the next one what to do.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TextIO

import tyro

from textgym.episodes import ScorerError

from ..run import DamagedRunError
from .beginning import JobError
from .choices import COMMANDS, AnyJob, SFTText, command_of
from .examining import Examination, examine
from .job import train
from .playing import Playing, play
from .saved import in_folder, job_of, read_config
from .spelling import REGISTRY
from .supervised import supervise
from .usage import PROGRAM, UsageError, parsed, spoken

USAGE = f"""usage: {PROGRAM} COMMAND [OPTIONS]

Train a language model on text, and look at what it has learned.

train:
  ppo              by proximal policy optimisation: warm a small model up on texts, then let it be rewarded
  a2c              by advantage actor-critic: one step of the optimiser for each window of play
  policy_gradient  by REINFORCE: whole texts, and no critic unless --advantage asks for one
  sft              by supervision alone: next tokens of texts, and no reward
  resume RUN       go on with a run that was stopped, as if it had never been

look:
  eval RUN         measure a finished or stopped run on held-out prompts
  play RUN         see the policy's next tokens, their chances and its value, and write with it

Examples:
  {PROGRAM} ppo                                   tiny film reviews, about a minute, no download
  {PROGRAM} ppo --config runs/NAME/config.json    the same run again, bit for bit
  {PROGRAM} COMMAND --help                        all options of a command

Ctrl-C stops a run after the present iteration and saves it; a second one stops at once, and what was saved last stays.
Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage."""


@dataclasses.dataclass(frozen=True)
class Resuming:
    """What `resume` may be told."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder of ppo, a2c, policy_gradient or sft."""


ABOUT = {
    "ppo": (
        "Train a language model by PPO on TextGen-v0: warm it up on the texts, then let it be rewarded.\n\n"
        "Without arguments: tiny film reviews, continued so that they are positive; no download, about a minute on two cores.\n\n"
        f"Example: {PROGRAM} ppo --seed 1 --total-timesteps 60000 --kl 'adaptive(coef=0.05, target=3.0)' --folder runs/mine"
    ),
    "a2c": (
        "Train a language model by A2C on TextGen-v0: as the command ppo does, with one step of the optimiser for each window of play.\n\n"
        f"Example: {PROGRAM} a2c --seed 1 --advantage 'n_step(gamma=1.0, n=5)' --folder runs/mine"
    ),
    "policy_gradient": (
        "Train a language model by REINFORCE on TextGen-v0: as the command ppo does, on whole texts, and without a critic unless --advantage asks for one.\n\n"
        "With --supervised-coef the texts of the warm-up go on being learned beside it.\n\n"
        f"Example: {PROGRAM} policy_gradient --prompting 'groups(size=8)' --episodes-per-row 1 --advantage grpo"
    ),
    "sft": (
        "Train a language model on texts, next token by next token, and on nothing else: the warm-up of the other commands, standing alone.\n\n"
        f"Example: {PROGRAM} sft --data reviews.txt --tokenizer byte --num-updates 2000 --folder runs/reviews"
    ),
    "resume": f"Go on with the run in RUN where it was stopped; it ends as if it had never been.\n\nExample: {PROGRAM} resume runs/mine",
    "eval": (
        "Measure a finished run, or the newest checkpoint of a stopped one, on the held-out prompts of its training.\n\n"
        "With the run's own --num-eval and --seed a finished run gives the numbers of its evaluation.json; +- is half of a 95 % interval.\n\n"
        f"Example: {PROGRAM} eval runs/mine --num-eval 4096 --json"
    ),
    "play": (
        "See what the policy of a run would write, token by token: its best next tokens and their chances, its value, and the reward so far.\n\n"
        "In a terminal, Enter draws a token, any text is written as it is, and q ends; in a pipe one text is drawn and printed.\n\n"
        f"Example: {PROGRAM} play runs/mine --prompt 'the plot is'"
    ),
}


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say and return the exit code."""
    name, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    try:
        if name in ("-h", "--help"):
            print(USAGE)
            return 0
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return _do(name, rest)
    except UsageError as error:
        return _complain(error, 2, name)
    except DamagedRunError as error:
        print(f"error: {error}\nRestore the folder from a copy, or start the run anew: --config and its config.json repeat it.", file=sys.stderr)
        return 1
    except (JobError, ScorerError, FloatingPointError) as error:
        return _complain(error, 1, name)


def _do(name: str, rest: Sequence[str]) -> int:
    if name in COMMANDS:
        return _train(_told(name, rest))
    if name == "resume":
        return _train(_job_of(parsed(Resuming, name, rest, ABOUT[name]).run), resume=True)
    if name == "eval":
        asked = parsed(Examination, name, rest, ABOUT[name])
        return examine(_job_of(asked.run), asked)
    if name == "play":
        wanted = parsed(Playing, name, rest, ABOUT[name])
        return play(_job_of(wanted.run), wanted)
    known = [*COMMANDS, "resume", "eval", "play"]
    near = difflib.get_close_matches(name, known, n=1)
    wrong = f"{name!r} is no command." if name else "No command was given."
    raise UsageError(f"{wrong} {f'Did you mean {near[0]!r}? ' if near else ''}Give one of {', '.join(known)}.")


def _train(choice: AnyJob, *, resume: bool = False) -> int:
    outcome = supervise(choice, resume=resume) if isinstance(choice, SFTText) else train(choice, resume=resume)
    return 0 if outcome is not None and not outcome.run.interrupted else 1


def _told(name: str, arguments: Sequence[str]) -> AnyJob:
    """Return the job that a command is told: its own defaults, or those of `--config`, and the options over them."""
    kind, default = COMMANDS[name][0], None
    if path := _config_of(arguments):
        default = _from_config(name, Path(path))
    told = dataclasses.make_dataclass(
        name,
        [
            ("config", Annotated[Path | None, tyro.conf.arg(help="config.json of a run, which this one repeats in a new folder; options go before it.")], None),
            ("choice", Annotated[kind, tyro.conf.arg(name="")], dataclasses.field(default_factory=kind if default is None else lambda: default)),
        ],
        frozen=True,
    )
    found: AnyJob = parsed(told, name, arguments, ABOUT[name], REGISTRY).choice
    return found


def _config_of(arguments: Sequence[str]) -> str | None:
    """Return what --config names: its values must be known before the options are read over them."""
    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
    return None


def _from_config(name: str, path: Path) -> AnyJob:
    try:
        choice = read_config(path)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if command_of(choice) != name:
        raise UsageError(f"{path} is of the command {command_of(choice)}, not of {name}. Give it to `{PROGRAM} {command_of(choice)} --config {path}`.")
    return in_folder(choice, None)


def _job_of(folder: Path) -> AnyJob:
    try:
        return job_of(folder)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None) -> None:
    """Print a warning without the line of code that gave it."""
    print(f"warning: {message}", file=sys.stderr)


def _complain(error: Exception, code: int, name: str) -> int:
    about = f"{PROGRAM} {name} --help" if name in ABOUT else f"{PROGRAM} --help"
    print("\n".join(spoken(str(error), f"`{about}` explains every option.")), file=sys.stderr)
    return code
