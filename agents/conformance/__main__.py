"""Say which property of returns, advantages, KL estimates or masks a function breaks: `python -m agents.conformance MODULE:FUNCTION`.

It exits 0 if the function keeps all that it can be asked, 1 if it breaks something, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import report as reporting
from .calls import ARRAYS, LAYOUTS, Calling, Misuse, offered
from .judge import judge
from .kinds import Kind, load, names


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge what `arguments` name, print the verdicts, and return the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        return _list(chosen.kind) if chosen.function is None else _judge(chosen)
    except Misuse as error:
        what, _, todo = str(error).partition("\n")
        print(f"error: {what}\n{todo}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agents.conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("function", metavar="MODULE:FUNCTION", nargs="?", help="what to judge; without it the kinds are listed")
    parser.add_argument("--kind", metavar="KIND", help=f"what the function is ({', '.join(names())}); guessed from its name if left out")
    parser.add_argument("--map", metavar="NAME=YOURS,...", default="", help="your function's names for our arguments: rewards=r,values=v_preds")
    parser.add_argument("--set", metavar="YOURS=VALUE,...", default="", help="what to pass for its other parameters, as Python literals: time_dim=0")
    parser.add_argument("--layout", metavar="LAYOUT", help=f"of its arrays: {' or '.join(LAYOUTS)} (otherwise the kind's own)")
    parser.add_argument("--arrays", metavar="ARRAYS", help=f"{' or '.join(ARRAYS)} (otherwise guessed from its annotations)")
    parser.add_argument(
        "--flags", metavar="FLAGS", default="bool", help="how masks and ends come: bool, or float for functions that compute 1 - dones on tensors"
    )
    parser.add_argument("--result", metavar="PART", help="which of several results is meant: an index, a key or an attribute")
    parser.add_argument("--json", action="store_true", help="print the verdicts as a JSON object")
    return parser


def _judge(chosen: argparse.Namespace) -> int:
    function = resolve(chosen.function)
    kind = _kind(chosen.kind) if chosen.kind else guess(chosen.function)
    constants = {name: _literal(name, text) for name, text in _pairs(chosen.set, "--set").items()}
    report = judge(function, kind, Calling(_pairs(chosen.map, "--map"), constants, chosen.layout, chosen.arrays, chosen.flags, chosen.result))
    if chosen.json:
        print(json.dumps(reporting.as_json(report, chosen.function), allow_nan=False))
    else:
        print("\n".join(reporting.lines(report, chosen.function)))
    return 1 if report.broken else 0


def _list(name: str | None) -> int:
    for kind in [_kind(name)] if name else map(load, names()):
        print(f"{kind.name}({', '.join(kind.arguments)}) -> {kind.result}\n  {kind.sentence}\n  {kind.definition}\n  Source: {kind.source}")
        print("  Keeps: " + ", ".join(entry.name for entry in kind.properties))
        if forms := [form for form in offered(kind) if form not in kind.arguments]:
            print(f"  May also take: {', '.join(forms)}")
    return 0


def resolve(text: str) -> Callable[..., Any]:
    """Return the function that "module:function" or "module:Class.method" names; raises `Misuse` if there is none."""
    module, colon, path = text.partition(":")
    if not (module and colon and path):
        raise Misuse(f"{text!r} names no function.\nWrite MODULE:FUNCTION, as in agents.advantages:gae.")
    try:
        found = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except ImportError as error:
        raise Misuse(f"The module {module} cannot be imported: {error}.\nInstall it, or run this where `python -c 'import {module}'` works.") from error
    except AttributeError as error:
        raise Misuse(f"The module {module} has no {path}.\nCheck the spelling; a method is written MODULE:CLASS.METHOD.") from error
    if not callable(found):
        raise Misuse(f"{text} is a {type(found).__name__} and cannot be called.\nName a function.")
    return found


def guess(text: str) -> Kind:
    """Return the kind whose name, or another word for it, is in the function's name, the longest first; raises `Misuse` if none is."""
    name = text.rpartition(":")[2].lower()
    words = {word: kind.name for kind in map(load, names()) for word in (kind.name, *kind.also_called)}
    found = [word for word in sorted(words, key=len, reverse=True) if word in name]
    if not found:
        raise Misuse(f"What {text} computes cannot be guessed from its name.\nSay it: --kind, one of {', '.join(names())}.")
    return load(words[found[0]])


def _kind(name: str) -> Kind:
    if name not in names():
        raise Misuse(f"There is no kind {name!r}.\nChoose one of {', '.join(names())}.")
    return load(name)


def _pairs(text: str, option: str) -> dict[str, str]:
    pairs = dict[str, str]()
    for part in filter(None, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise Misuse(f"{option} cannot read {part!r}.\nWrite NAME=VALUE, separated by commas.")
        pairs[name] = value
    return pairs


def _literal(name: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise Misuse(f"--set {name}={text} is no Python literal.\nWrite a number, True, None, or a quoted text: {name}=\"'{text}'\".") from error


if __name__ == "__main__":
    sys.exit(main())
