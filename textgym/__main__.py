"""The command line of the environments: list them, hold one to the laws, replay what was recorded, and compare two recordings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import __version__
from .commands.checking import check
from .commands.listing import list_tasks
from .commands.replaying import diff, replay
from .commands.usage import EQUAL, UNUSABLE, UsageError, import_module

CHECK = "Hold one environment to the laws of textgym.laws; exit 0 if all hold, 1 if some fail, 2 if it cannot be made."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name; return 0 if all is equal and well, 1 if recordings differ, 2 if a file or an argument is unusable."""
    chosen = _parser().parse_args(arguments)
    try:
        for module in chosen.modules:
            import_module(module)
        code: int = chosen.run(chosen)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again on leaving
        return EQUAL
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m textgym", description=__doc__)
    parser.add_argument("--version", action="version", version=f"textgym {__version__}")
    commands = parser.add_subparsers(required=True, metavar="list | check | replay | diff")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--import", dest="modules", metavar="MODULE", action="append", default=[], help="import MODULE first, which registers your own tasks")

    listing = commands.add_parser("list", parents=[common], help="show the registered tasks", description="Show the registered tasks.")
    listing.add_argument("--json", action="store_true", help="print a JSON array of objects")
    listing.set_defaults(run=list_tasks)

    checking = commands.add_parser("check", parents=[common], help="hold an environment to the laws", description=CHECK)
    checking.add_argument("target", metavar="ID|MODULE:NAME", help="a registered id, or a class or function without arguments that makes the environment")
    checking.add_argument("--json", action="store_true", help="print a JSON array of objects")
    checking.set_defaults(run=check)

    replaying = commands.add_parser("replay", parents=[common], help="run recorded episodes again", description="Run recorded episodes again and show them.")
    replaying.add_argument("file", metavar="FILE", help="what RecordEpisode wrote")
    replaying.add_argument("--verify", action="store_true", help="say where an episode does not come out the same, bit for bit; exit 1 if one does not")
    replaying.set_defaults(run=replay)

    comparing = commands.add_parser("diff", parents=[common], help="compare two recordings", description="Name the first step at which two recordings differ.")
    comparing.add_argument("one", metavar="A")
    comparing.add_argument("other", metavar="B")
    comparing.set_defaults(run=diff)
    return parser


if __name__ == "__main__":
    sys.exit(main())
