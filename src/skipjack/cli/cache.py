"""`skipjack cache`: the compiled kernels on disk."""

from __future__ import annotations

import json

import click

from skipjack.cli.output import in_bytes
from skipjack.codegen.cache_files import cache_files, prune
from skipjack.codegen.object_files import cache_directory
from skipjack.core.errors import ConfigError
from skipjack.core.knobs import CACHE_LIMIT, check_environment, parse_bytes


def _parse_limit(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_bytes(value)
    except ValueError:
        raise click.BadParameter(f"expected a number of bytes such as 64m or 2g, got {value!r}") from None


@click.command()
@click.argument("action", type=click.Choice(["show", "clear", "prune"]), default="show")
@click.option("--limit", callback=_parse_limit, help="With prune: bytes to keep, such as 64m; SKIPJACK_CACHE_LIMIT.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cache(action: str, limit: int | None, as_json: bool) -> None:
    """Show, shrink or clear the cache of compiled kernels.

    Removed kernels are compiled again when a model needs them. Prune removes those that were not used for longest.
    """
    check_environment()
    folder = cache_directory()
    if folder is None:
        reason = "it is off (SKIPJACK_CACHE=0) or its directory cannot be trusted"
        raise ConfigError(f"there is no kernel cache: {reason}; see `skipjack doctor`")
    removed = (0, 0)
    if action != "show":
        keep = 0 if action == "clear" else CACHE_LIMIT.get() if limit is None else limit
        removed = prune(folder, keep)
    files = cache_files(folder)
    nbytes = sum(f.nbytes for f in files)
    if as_json:
        facts = {"directory": str(folder), "files": len(files), "bytes": nbytes, "limit_bytes": CACHE_LIMIT.get()}
        click.echo(json.dumps({**facts, "removed_files": removed[0], "removed_bytes": removed[1]}, indent=2))
        return
    if action != "show":
        click.echo(f"removed    {removed[0]} kernels, {in_bytes(removed[1])}")
    click.echo(f"directory  {folder}")
    click.echo(f"kernels    {len(files)}, {in_bytes(nbytes)} of at most {in_bytes(CACHE_LIMIT.get())}")
