"""`assay api`: serve the index over HTTP."""

from __future__ import annotations

import click

from assay.cli.output import command_errors, console, emit_json, json_option
from assay.db.engine import open_engine, upgrade
from assay.index.probe import PERIOD
from assay.settings import Settings


@click.group()
def command() -> None:
    """Serve the index over HTTP."""


@command.command("run")
@click.option("--database", "database_url", help="sqlite:///path or postgresql://…")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8700, show_default=True, help="0: any free port")
@click.option("--probe-period", default=float(PERIOD), show_default=True, help="the index's, in seconds")
@json_option
@command_errors
def run_api(database_url: str | None, host: str, port: int, probe_period: float, as_json: bool) -> None:
    """Answer queries until stopped; reads the database that `assay index run` writes."""
    from assay.api.app import create_app
    from assay.cli.serving import serve

    location = database_url or Settings().database_url
    engine = open_engine(location)
    upgrade(engine)  # so that the API may start before the index
    database = engine.url.render_as_string()  # without its password
    app = create_app(open_engine(location, read_only=True), probe_period=probe_period)

    def announce(url: str) -> None:
        if as_json:
            emit_json({"url": url, "database": database})
        else:
            console().print(f"API on {url}, of {database}; Ctrl-C stops it", soft_wrap=True)

    serve(app, host, port, announce, grace_seconds=2)
