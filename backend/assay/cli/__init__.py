"""The `assay` command. Each group lives in a module of its own and is imported when it is called."""

from __future__ import annotations

import importlib
from typing import Any

import click

from assay.errors import AssayError

GROUPS = {
    "model": "init, check, quantize, push, publish, list and show models",
    "node": "set up, check and run a node",
    "hub": "run an artifact hub",
    "facilitator": "settle x402 payments for nodes on this machine",
    "index": "follow the chain into a database",
    "api": "serve the index over HTTP",
    "infer": "send one inference request and keep its receipt",
    "receipt": "show and verify receipts",
    "watch": "re-execute receipts and dispute the wrong ones",
    "dispute": "list, explain and play disputes",
    "channel": "fund, show and withdraw escrow",
    "network": "show the network's utility figures",
}


class LazyGroup(click.Group):
    """A group whose commands live in `assay.cli.<name>` as an attribute `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        command: Any = importlib.import_module(f"assay.cli.{cmd_name}").command
        return command if isinstance(command, click.Command) else None

    def invoke(self, ctx: click.Context) -> Any:
        """Ctrl-C while a group is imported, or at a question, ends as it does within a command; so does
        what is wrong with the environment before one."""
        try:
            return super().invoke(ctx)
        except AssayError as error:
            click.echo(f"error {error}", err=True)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("stopped", err=True)
            ctx.exit(130)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(GROUPS.items()))


EXIT_CODES = """Exit codes: 0 done; 1 a check failed (`node doctor`, `model check`), else a bug; 2 wrong usage
or a request that cannot be served; 3 may succeed later (RPC or node down, receipt not final yet); 4 will not
go away (wrong chain, corrupt log); 5 a setting, key or file is missing or wrong; 6 something signed or proven
does not check; 7 a contract refused; 8 no node would serve the artifact; 130 interrupted."""


@click.group(cls=LazyGroup, epilog=EXIT_CODES)
@click.version_option(package_name="assay")
def main() -> None:
    """Registry and settlement for verified model inference."""
