"""`assay api`: serve the index over HTTP."""

from __future__ import annotations

import click

from assay.cli.output import command_errors, progress_console
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
@command_errors
def run_api(database_url: str | None, host: str, port: int, probe_period: float) -> None:
    """Answer queries until stopped; reads the database that `assay index run` writes."""
    import uvicorn

    from assay.api.app import create_app

    url = database_url or Settings().database_url
    upgrade(open_engine(url))  # so that the API may start before the index
    app = create_app(open_engine(url, read_only=True), probe_period=probe_period)
    config = uvicorn.Config(app, host=host, port=port, access_log=False, timeout_graceful_shutdown=2)
    progress_console().print(f"API of {open_engine(url).url.render_as_string()} at http://{host}:{port}")
    uvicorn.Server(config).run()
