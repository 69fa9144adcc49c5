"""The command line of the learners: `python -m agents --help` lists its commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Do what the arguments say; exit 0 if it was done, 1 if it failed or was interrupted, 2 for wrong arguments."""
    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", [])
        print("\n".join(["interrupted: stopped at once", *(notes or ["nothing was begun; start again with the same command"])]), file=sys.stderr)
        code = 1
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        from .recipes.command_line import run  # inside: the libraries take seconds to load, and Ctrl-C may come then
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("", "agents", "textgym"):  # ours: a fault, and no extra helps
            raise
        print(f'error: {missing.name} is not installed.\nInstall what the learners need: pip install "textgym[agents]"', file=sys.stderr)
        return 1
    return run(arguments)


if __name__ == "__main__":
    main()
