"""What the commands share: their exit codes, and how they say that something that the caller gave cannot be used."""

from __future__ import annotations

import importlib
import os
import sys

EQUAL, DIFFERENT, UNUSABLE = 0, 1, 2


class UsageError(ValueError):
    """Something that the caller gave cannot be used: its message has a first line that says what, and a second that says what to do."""


def import_module(module: str) -> None:
    """Import `module`, which may lie in the working directory.

    Raises:
        UsageError: it cannot be imported.
    """
    sys.path.insert(0, os.getcwd())  # as `python -m` has it; the console script does not
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} cannot be imported: {error}.\nName a module that Python finds from here.") from error
