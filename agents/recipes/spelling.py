"""The choices that are objects, and are spelled as on paper: "gae(gamma=0.99, gae_lambda=0.95)" or "module:function"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tyro

from .. import advantages, masking, prompting_names, surrogates
from ..advantages import Advantage
from ..kl import KLPrice, parse_kl_price, spell_kl_price
from ..prompting import Prompting
from ..surrogates import Surrogate

REGISTRY = tyro.constructors.ConstructorRegistry()

# How each is read, and written.
SPELLED: dict[Any, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    Advantage: (advantages.parse, advantages.spell),
    Surrogate: (surrogates.parse, surrogates.spell),
    KLPrice: (parse_kl_price, spell_kl_price),
    Prompting: (prompting_names.parse, prompting_names.spell),
    masking.NLPO | None: (masking.parse, masking.spell),
}


@REGISTRY.primitive_rule
def _spelled(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Let the command line read such a choice."""
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
