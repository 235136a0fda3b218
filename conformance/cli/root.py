"""The root command, and what its subcommands share: error messages, exit codes, common options."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click

from conformance import __version__
from conformance.errors import ConformanceError
from conformance.report.wording import inert, visible
from conformance.threads import pin

EXIT_CODES: Final = """\b
Exit codes:
  0  nothing diverges on a MUST requirement
  1  something does
  2  bad usage or input
  3  could not be completed: something broke, is inconclusive, or nothing was compared
"""

# Not click's 1, which says that something diverges.
INTERRUPTED: Final = 3

P = ParamSpec("P")
R = TypeVar("R")


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Print a ConformanceError as one message and exit with its code."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ConformanceError as error:
            # It may quote a file from anybody.
            click.echo(inert(visible(f"error: {error}")), err=True)
            sys.exit(error.exit_code)

    return wrapped


COMMANDS: Final = {
    "accuracy": "accuracy",
    "bench": "bench",
    "bisect": "bisect",
    "check-cell": "check_cell",
    "env": "env",
    "faults": "figures",
    "figures": "figures",
    "gate": "gate",
    "list": "catalogue",
    "replay": "replay",
    "report": "report",
    "run": "run",
    "schema": "catalogue",
    "smoke": "catalogue",
    "trend": "trend",
}
"""The module of every command."""


class Commands(click.Group):
    """The commands; the module of one is imported when it is asked for, as importing all of them takes long."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of all commands."""
        return list(COMMANDS)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named; interrupted, even while it is imported, is could not be completed."""
        pin()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        # All of them for a name that is none: what may have been meant is said then.
        for module in {COMMANDS[cmd_name]} if cmd_name in COMMANDS else set(COMMANDS.values()):
            import_module(f"conformance.cli.{module}")
        return super().get_command(ctx, cmd_name)


adapter_option = click.option(
    "--adapter",
    "adapter_folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of a further adapter (adapter.toml, adapter.py); may be repeated.",
)


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rnn-conformance")
def main() -> None:
    r"""Tell whether two RNN implementations compute the same thing, and if not, what is wrong.

    \b
    A candidate is ADAPTER[:VARIANT][==VERSION|@PATH|@here]:
      mlx                 every default variant, of the MLX installed beside the harness
                          or else of a managed environment with the pinned release
      mlx:none==0.31.1    that variant and release, in a managed environment
      mlx:none@PATH       an interpreter, a virtual environment, a wheel or a checkout
      mlx:none@here       the release installed beside the harness, and no other
    """
    from conformance.discover import load_faults
    from conformance.environments import cache_root

    # What Hypothesis notes about loaded modules belongs to everything else that is kept, not into the current folder.
    if "hypothesis" not in sys.modules:
        os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(cache_root() / "hypothesis"))
    reported(load_faults)()
