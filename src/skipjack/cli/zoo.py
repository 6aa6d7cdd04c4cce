"""`skipjack zoo`: model names, where they lead, and the files on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from skipjack.cli.output import console, in_bytes
from skipjack.core.errors import ConfigError, ModelError
from skipjack.zoo import hub, mapping, mirror
from skipjack.zoo.names import HubName, StubName, parse_name
from skipjack.zoo.resolve import resolve


@click.group()
def zoo() -> None:
    """Find, fetch and name models.

    A model is a path, a directory, hf:owner/name[@revision][:file], or a zoo: stub in one of the two forms that
    SparseZoo had. Stubs lead through your own entries (`skipjack zoo add`), the directories and mapping files of
    SKIPJACK_ZOO, the table that comes along, and the mirror of SKIPJACK_ZOO_ENDPOINT.
    """


@zoo.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """List the names that lead somewhere, and what the cache of the hub holds."""
    names = [
        {"stub": f"zoo:{key}", "leads_to": target, "source": source}
        for source, _, entries in mapping.mappings()
        for key, target in sorted(entries.items())
    ]
    fetched = [{"name": f"hf:{repo}@{commit}", "bytes": size} for repo, commit, size in hub.cached()]
    if as_json:
        click.echo(json.dumps({"names": names, "fetched": fetched, "directories": [str(p) for p in mapping.places()]}))
        return
    table = Table("name", "leads to", "source", box=None, pad_edge=False)
    for row in names:
        table.add_row(row["stub"], row["leads_to"], row["source"])
    console().print(table)
    held = Table("on this machine", "size", box=None, pad_edge=False)
    for entry in fetched:
        held.add_row(str(entry["name"]), in_bytes(int(str(entry["bytes"]))))
    if fetched:
        console().print(held)


@zoo.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Say what NAME means and where its files are; nothing is fetched."""
    parsed = parse_name(name)
    said: dict[str, object] = {"name": str(parsed), "kind": "path"}
    if isinstance(parsed, HubName):
        said |= {"kind": "hub", "repository": parsed.repo, "revision": parsed.revision, "file": parsed.file}
        said["on_this_machine"] = [commit for repo, commit, _ in hub.cached() if repo == parsed.repo]
    elif isinstance(parsed, StubName):
        entry, asked = mapping.look_up(parsed)
        said |= {"kind": "stub", **parsed.described, "leads_to": str(entry.target) if entry else None}
        said |= {"source": entry.source} if entry else {"tried": asked, "mirror": mirror.endpoint()}
    else:
        said |= {"exists": parsed.exists()}
    if as_json:
        click.echo(json.dumps(said))
        return
    for key, value in said.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        click.echo(f"{key.replace('_', ' '):18}{'-' if shown in (None, '') else shown}")


@zoo.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Fetch again what is there already.")
def pull(name: str, force: bool) -> None:
    """Fetch the files of NAME and print the path of its model."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def watch(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=total)
            progress.update(tasks[file], completed=done)

        found = resolve(name, force=force, watch=watch)
    click.echo(f"{found.via}", err=True)
    click.echo(str(found.model))


@zoo.command()
@click.argument("stub")
@click.argument("target")
def add(stub: str, target: str) -> None:
    """Let STUB (zoo:...) lead to TARGET, a path or an hf: name."""
    name = _stub(stub)
    leads_to = parse_name(target)
    if isinstance(leads_to, StubName):
        raise ConfigError(f"{target}: a stub cannot lead to a stub; give a path or an hf: name")
    if isinstance(leads_to, Path):
        if not leads_to.exists():
            raise ModelError(f"{leads_to}: no such file or directory")
        target = str(leads_to.resolve())
    click.echo(f"{name} -> {target} (written to {mapping.add(name, target)})")


@zoo.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Forget your entry for a zoo: name, or delete an hf: repository from the cache."""
    parsed = parse_name(name)
    if isinstance(parsed, HubName):
        if not yes:
            click.confirm(f"Delete every cached revision of {parsed.repo}?", abort=True)
        freed = hub.remove(parsed.repo)
        click.echo(f"{parsed.repo}: {in_bytes(freed)} freed" if freed else f"{parsed.repo}: not in the cache")
        return
    stub = _stub(name)
    if not mapping.remove(stub):
        raise ConfigError(f"{stub}: {mapping.user_file()} has no such entry")
    click.echo(f"{stub}: forgotten")


def _stub(text: str) -> StubName:
    name = parse_name(text if text.startswith("zoo:") else f"zoo:{text}")
    assert isinstance(name, StubName), "zoo: names are stubs"
    return name
