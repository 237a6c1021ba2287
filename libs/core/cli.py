"""Options and error handling shared by all scripts."""

import argparse
import functools
import os
import sys
from collections.abc import Callable

from libs.core.errors import UserError


def build_parser(description: str | None, prog: str | None = None) -> argparse.ArgumentParser:
    """Build a parser that prints a script's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_override_option(parser: argparse.ArgumentParser) -> None:
    """Add `-o KEY=VALUE …`, repeatable: `args.o` is the list of overrides that `load_config` takes."""
    parser.add_argument(
        "-o", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="set a configuration key"
    )


def add_launcher_option(parser: argparse.ArgumentParser) -> None:
    """Add `--local_rank`, which torch.distributed.launch passes to each process."""
    parser.add_argument("--local_rank", "--local-rank", type=int, metavar="N", help="set by launchers")


def exit_on_user_error(main: Callable) -> Callable:
    """Decorate a script's main() so that an error of the user ends it with one line on stderr.

    The exit status is 2 for a UserError or an OSError (a full disk), and 130 for Ctrl-C.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (UserError, OSError) as error:
            rank = os.environ.get("RANK", "0")
            prefix = "error" if rank == "0" else f"error (rank {rank})"
            message = str(error)
            if isinstance(error, OSError) and error.filename:
                message = f"{error.filename}: {error.strerror}"
            print(f"{prefix}: {' '.join(message.split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return run
