"""The command line. Each command is a module of `commands` with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .commands import COMMANDS, UsageError


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells each option's default, except where that is None."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 done and the answer is no, 2 wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="flashrnn-numba", description="Fast recurrent networks in pure Python."
    )
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # only the module of the command asked for is imported, so that --help is fast
    chosen = next((word for word in given if word in COMMANDS), None)
    for name, text in COMMANDS.items():
        command = parsers.add_parser(name, help=text, formatter_class=_Formatter)
        if name == chosen:
            module = import_module(f".commands.{name}", __package__)
            command.description = module.__doc__
            module.add_arguments(command)
    parsed = parser.parse_args(given)
    parsed.words = given  # for records: the command that made them
    try:
        return import_module(f".commands.{parsed.command}", __package__).run(parsed)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor is there more to flush
        return 0
    except UsageError as error:
        print(f"flashrnn-numba {parsed.command}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
