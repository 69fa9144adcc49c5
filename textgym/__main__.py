"""The command line of the environments: list them, play one, hold one to the laws, replay what was recorded, and compare two recordings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import __version__
from .commands.checking import check
from .commands.listing import list_tasks
from .commands.playing import play
from .commands.replaying import diff, replay
from .commands.usage import EQUAL, UNUSABLE, UsageError, import_module

CODES = "exit codes: 0 all is well, 1 something differs or fails (check, diff, replay --verify), 2 something given cannot be used"
EXAMPLES = {
    "list": "python -m textgym list --json",
    "play": """python -m textgym play TextGen-v0 --seed 1 --options '{"constraint": "film_grammar"}'""",
    "check": "python -m textgym check TextGen-v0",
    "replay": "python -m textgym replay episodes.jsonl --verify",
    "diff": "python -m textgym diff one.jsonl other.jsonl",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors read like all others: what is wrong, what to do."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.", f"{self.prog} --help says what can be given.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name; return 0 if all is well, 1 if something differs or fails, 2 if a file or an argument is unusable."""
    try:
        chosen = _parser().parse_args(arguments)
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
    parser = _Parser(prog="python -m textgym", description=__doc__, epilog=CODES)
    parser.add_argument("--version", action="version", version=f"textgym {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar=" | ".join(EXAMPLES))
    _add(commands, "list", list_tasks, "show the registered tasks").add_argument("--json", action="store_true", help="print a JSON array of objects")

    playing = _add(commands, "play", play, "play one episode, token by token")
    playing.add_argument("id", metavar="ID", help="a registered id")
    playing.add_argument("--random", action="store_true", help="let uniform random actions play; so they do where the input is no terminal")
    playing.add_argument("--seed", type=_seed, help="of the environment and of random actions; left out, another one each time, which is printed")
    playing.add_argument("--prompt", type=int, metavar="INDEX", help="begin with this prompt, or on this map")
    playing.add_argument("--options", default="{}", metavar="JSON", help="further arguments of gymnasium.make, an object")

    checking = _add(commands, "check", check, "hold an environment to the laws of textgym.laws")
    checking.add_argument("target", metavar="ID|MODULE:NAME", help="a registered id, or a class or function without arguments that makes the environment")
    checking.add_argument("--json", action="store_true", help="print a JSON array of objects")

    replaying = _add(commands, "replay", replay, "run recorded episodes again and show them")
    replaying.add_argument("file", metavar="FILE", help="what RecordEpisode wrote")
    replaying.add_argument("--verify", action="store_true", help="say where an episode does not come out the same, bit for bit; exit 1 if one does not")

    comparing = _add(commands, "diff", diff, "name the first step at which two recordings differ")
    comparing.add_argument("one", metavar="A", help="what RecordEpisode wrote")
    comparing.add_argument("other", metavar="B", help="likewise")
    return parser


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], int], does: str) -> argparse.ArgumentParser:
    epilog = f"example:\n  {EXAMPLES[name]}\n\n{CODES}"
    about = f"{does[0].upper()}{does[1:]}."
    shape = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(name, help=does, description=about, epilog=epilog, formatter_class=shape)
    parser.add_argument("--import", dest="modules", metavar="MODULE", action="append", default=[], help="import MODULE first, which registers your own tasks")
    parser.set_defaults(run=run)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give an integer of at least 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
