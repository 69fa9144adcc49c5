"""The command line of the learners: `python -m agents --help` lists its commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Do what the arguments say; exit 0 if it was done, 1 if it failed or was interrupted, 2 for wrong arguments."""
    try:
        from .recipes.command_line import run  # inside: the libraries take seconds to load, and Ctrl-C may come then

        code = run(sys.argv[1:])
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", [])
        print("\n".join(["interrupted: stopped at once", *(notes or ["nothing was begun; start again with the same command"])]), file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
