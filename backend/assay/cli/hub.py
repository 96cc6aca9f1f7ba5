"""`assay hub`: run an artifact hub, put files there, get them back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from assay.cli.output import command_errors, console, emit_json, json_option, progress_console
from assay.cli.serving import serve
from assay.commitments.identifiers import cid
from assay.hub.client import HubClient
from assay.hub.digests import MAX_ARTIFACT_BYTES, parse_digest
from assay.hub.server import DEFAULT_PORT, build_app
from assay.settings import Settings

hub_option = click.option(
    "--hub", "hub", help="URL of a hub, or a store's folder or URL; default ASSAY_HUB_URL"
)


@click.group()
def command() -> None:
    """Run an artifact hub, put files there, get them back."""


@command.command()
@click.option("--store", help="folder, or s3://bucket/prefix (AWS_… environment); default: hub in ASSAY_DATA")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535), help="0: any free one"
)
@click.option("--max-bytes", default=MAX_ARTIFACT_BYTES, show_default=True, type=click.IntRange(min=1))
@json_option
@command_errors
def run(store: str | None, host: str, port: int, max_bytes: int, as_json: bool) -> None:
    """Serve artifacts until Ctrl-C."""
    data = Settings().data
    location = store or str(data / "hub")
    app = build_app(location, data=data, max_bytes=max_bytes)

    def announce(url: str) -> None:
        if as_json:
            emit_json({"url": url, "store": location})
        else:
            console().print(f"hub on {url}, artifacts in {location}; Ctrl-C stops it")

    serve(app, host, port, announce)


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@hub_option
@json_option
@command_errors
def put(file: Path, hub: str | None, as_json: bool) -> None:
    """Store FILE and print its digest; goes on where a broken upload stopped."""
    with HubClient(hub or Settings().hub_url) as client, _bar(f"put {file.name}", as_json) as progress:
        digest = client.put(file, progress)
    _show({"sha256": digest.hex(), "cid": cid(digest), "bytes": file.stat().st_size}, as_json)


@command.command()
@click.argument("digest")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="default: the sha256")
@hub_option
@json_option
@command_errors
def get(digest: str, output: Path | None, hub: str | None, as_json: bool) -> None:
    """Fetch the artifact DIGEST (sha256 or CID), checked; goes on where a broken download stopped."""
    wanted = parse_digest(digest)
    target = output or Path(wanted.hex())
    with HubClient(hub or Settings().hub_url) as client, _bar(f"get {target.name[:16]}", as_json) as progress:
        client.fetch(wanted, target, progress)
    _show({"sha256": wanted.hex(), "file": str(target), "bytes": target.stat().st_size}, as_json)


def _show(fields: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(fields)
    else:
        for name, value in fields.items():
            console().print(f"{name:7} {value}")


@contextlib.contextmanager
def _bar(title: str, hidden: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on standard error."""
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=progress_console(), disable=hidden, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
