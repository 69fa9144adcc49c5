"""The command line of the learners: `python -m agents ppo --help`, and likewise a2c and policy_gradient."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from textgym.episodes import ScorerError

from . import advantages, masking, prompting_names, surrogates
from .advantages import Advantage
from .kl import KLPrice, parse_kl_price, spell_kl_price
from .prompting import Prompting
from .recipes import A2CText, JobError, PolicyGradientText, PPOText, TextJob, train
from .recipes.choices import from_json
from .surrogates import Surrogate

REGISTRY = tyro.constructors.ConstructorRegistry()


# The choices that are objects, and are spelled as on paper: how a spelling is read, and written.
SPELLED: dict[Any, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    Advantage: (advantages.parse, advantages.spell),
    Surrogate: (surrogates.parse, surrogates.spell),
    KLPrice: (parse_kl_price, spell_kl_price),
    Prompting: (prompting_names.parse, prompting_names.spell),
    masking.NLPO | None: (masking.parse, masking.spell),
}


@REGISTRY.primitive_rule
def _spelled(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Let a choice be spelled as on paper: "gae(gamma=0.99, gae_lambda=0.95)" or "module:function"."""
    if info.type not in SPELLED:
        return None
    parse, spell = SPELLED[info.type]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME(ARGUMENT=VALUE, ...)|MODULE:FUNCTION",
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: not isinstance(value, str),
        str_from_instance=lambda value: [spell(value)],
    )


Todo = Callable[[], int]


def ppo(choice: Annotated[PPOText, tyro.conf.arg(name="")]) -> Todo:
    """Train a language model by PPO on TextGen-v0.

    Without arguments: tiny film reviews, continued so that they are positive; no download, about a minute on two cores.
    """
    return _doing(choice)


def a2c(choice: Annotated[A2CText, tyro.conf.arg(name="")]) -> Todo:
    """Train a language model by A2C on TextGen-v0: as the command ppo does, with one step of the optimiser for each window of play."""
    return _doing(choice)


def policy_gradient(choice: Annotated[PolicyGradientText, tyro.conf.arg(name="")]) -> Todo:
    """Train a language model by REINFORCE on TextGen-v0: as the command ppo does, on whole texts, and without a critic unless --advantage asks for one.

    With --supervised-coef the texts of the warm-up go on being learned beside it.
    """
    return _doing(choice)


def resume(folder: tyro.conf.Positional[Path]) -> Todo:
    """Go on with the run in FOLDER where it was stopped; it ends as if it had never been."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing, so {folder} is no run folder; name one that `python -m agents` wrote.")
    choice = from_json(json.loads(path.read_text(encoding="utf-8")))
    return _doing(replace(choice, job=replace(choice.job, folder=folder)), resume=True)


def _doing(choice: TextJob, *, resume: bool = False) -> Todo:
    def todo() -> int:
        outcome = train(choice, resume=resume)
        return 0 if outcome is not None and not outcome.run.interrupted else 1

    return todo


def main() -> None:
    """Do what the arguments say; exit 0 if it was done, 1 if not, 2 for wrong arguments."""
    commands: dict[str, Callable[..., Any]] = {"ppo": ppo, "a2c": a2c, "policy_gradient": policy_gradient, "resume": resume}
    try:
        todo: Todo = tyro.extras.subcommand_cli_from_dict(commands, prog="python -m agents", description=__doc__, registry=REGISTRY)
    except (ValueError, TypeError) as error:  # the choices' own checks
        sys.exit(_complain(error, 2))
    try:
        code = todo()
    except (JobError, ScorerError) as error:
        code = _complain(error, 1)
    sys.exit(code)


def _complain(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
