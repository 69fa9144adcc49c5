"""Reading arguments by tyro, and errors in two plain lines: what is wrong, and what to do."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro

PROGRAM = "python -m agents"
T = TypeVar("T")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SIDES = " │|+"  # of a box; the latter two where the terminal has no characters to draw one
_RULE = re.compile(r"[╭╮╰╯─+\-\s]+")
_ALTERNATIVE = re.compile(r"(\S+) no type matching .* could be instantiated from .*")
_PLAIN = (  # what Python and tyro say, and what is meant
    (re.compile(r"^Error parsing (?:(?:choice|Examination|Playing)[\w.]*: )?"), ""),
    (re.compile(r"invalid literal for int\(\) with base 10: (.*)"), r"\1 is no whole number"),
    (re.compile(r"could not convert string to float: (.*)"), r"\1 is no number"),
    (re.compile(r"^Missing value for argument '(.*?)'.*"), r"\1 has no value. Give it one."),
    (re.compile(r"^Missing from .*?: (\S+) .*"), r"\1 is missing. Give it, as in runs/NAME."),
    (re.compile(r"^invalid choice (.*) for argument '(.*?)'\."), r"\2: \1 is none of its choices."),
    (re.compile(r"^Unrecognized options: (.*)"), r"There is no option \1"),
)
# Where what is wrong ends and what to do begins; the first of these that a message holds.
_TURNS = (
    re.compile(r"(?<=[;:.?!,]) (?=(?:or )?(?:give|pass|set|use|name|choose|build|restore|read|expected one|did you mean|go on)\b)", re.IGNORECASE),
    re.compile(r"(?<=;) "),
    re.compile(r"(?<=[^.][.?!]) (?=[A-Z])"),
)


class UsageError(ValueError):
    """Wrong arguments: what is wrong with them, and what to do."""


def parsed(kind: type[T], name: str, arguments: Sequence[str], about: str, registry: Any = None) -> T:
    """Return a `kind` as the arguments of a command tell it; raises `UsageError`, or `SystemExit` after --help."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, prog=f"{PROGRAM} {name}", description=about, args=list(arguments), registry=registry)
    except SystemExit as end:
        if end.code:
            raise UsageError(unboxed(said.getvalue())) from None
        raise
    except (ValueError, TypeError) as error:  # the choices' own checks
        raise UsageError(str(error)) from error


def unboxed(text: str) -> str:
    """Return what stands in a box of tyro's, in a sentence or two, without its help on the argument."""
    sections: list[list[str]] = [[]]
    for line in (_COLOUR.sub("", line).strip(_SIDES) for line in text.splitlines()[1:]):  # the first line is a title
        if not line or _RULE.fullmatch(line):
            sections.append([])
        else:
            sections[-1].append(line)
    told = [" ".join(lines) for lines in sections if lines and not lines[0].startswith(("Argument helptext", "For full helptext"))]
    wrong = told[0] if told else text.strip()
    if errors := next((section for section in told if section.startswith("Got errors")), None):  # of None and what else it might be: the latter counts
        wrong = _ALTERNATIVE.sub(lambda found: f"{found[1]} {errors.rpartition('>: ')[2]}", wrong)
    for pattern, plain in _PLAIN:
        wrong = pattern.sub(plain, wrong)
    perhaps = [_options(section) for section in told[1:] if section.startswith("Perhaps you meant")]
    return " ".join([wrong if wrong.endswith((".", "!", "?")) else f"{wrong}.", *perhaps])


def _options(section: str) -> str:
    names = list(dict.fromkeys(re.findall(r"--[\w.-]+", section)))
    return f"Did you mean {' or '.join(names[:3])}?"


def spoken(message: str, otherwise: str) -> list[str]:
    """Return the lines of an error: what is wrong, and what to do, which is `otherwise` where the message does not say."""
    message = " ".join(message.split())
    for turn in _TURNS:
        if found := turn.search(message):
            wrong, todo = message[: found.start()], message[found.end() :]
            return [f"error: {wrong.rstrip(';,: ')}", f"{todo[0].upper()}{todo[1:]}"]
    return [f"error: {message}", otherwise]
