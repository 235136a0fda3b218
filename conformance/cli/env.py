"""``rnn-conformance env``: managed environments."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.cli.root import main, reported
from conformance.environments import cache_root, list_environments, prune
from conformance.errors import SpecError


@main.group()
def env() -> None:
    """Managed environments: what there is, and removing it."""


@env.command(name="list")
@reported
def env_list() -> None:
    """List the managed environments with their packages and sizes."""
    environments = list_environments()
    if not environments:
        click.echo(f"no managed environments in {cache_root()}")
        return
    table = Table("environment", "python", "made", "MB", "requirements")
    table.columns[0].no_wrap = True  # the name is what `env prune` takes
    for e in environments:
        cells = (e.key, e.python, e.created[:10], f"{e.bytes / 1e6:.0f}", ", ".join(e.requirements))
        table.add_row(*map(Text, cells))
    Console().print(table)
    click.echo(f"in {environments[0].path.parent}")


@env.command(name="prune")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove every managed environment, and kept programs.")
@reported
def env_prune(names: tuple[str, ...], everything: bool) -> None:
    """Remove managed environments by NAME (see `env list`), or all of them."""
    if bool(names) == everything:
        raise SpecError("say what to remove", wanted="either names of environments or --all")
    for removed in prune(None if everything else names):
        click.echo(f"removed {removed.key}")
