"""What the commands share: their exit codes, and how they say that something that the caller gave cannot be used."""

from __future__ import annotations

import importlib
import os
import sys

EQUAL, DIFFERENT, UNUSABLE = 0, 1, 2


class UsageError(ValueError):
    """Something that the caller gave cannot be used: what is wrong in one line, what to do in a second."""

    def __init__(self, wrong: str, remedy: str) -> None:
        super().__init__(f"{_one_line(wrong)}\n{_one_line(remedy)}")


def _one_line(text: str) -> str:
    """Return `text` in one line: the messages of other people's exceptions may have many."""
    return " ".join(text.split())


def import_module(module: str) -> None:
    """Import `module`, which may lie in the working directory.

    Raises:
        UsageError: it cannot be imported.
    """
    sys.path.insert(0, os.getcwd())  # as `python -m` has it; the console script does not
    try:
        importlib.import_module(module)
    except Exception as error:  # a stranger's module may raise anything
        cause = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"{module} cannot be imported: {cause}.", "Name a module that Python finds from here, and that imports without an error.") from error
