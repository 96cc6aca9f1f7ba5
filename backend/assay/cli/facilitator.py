"""`assay facilitator`: settle x402 payments for nodes on this machine."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from assay.chain.client import ChainClient
from assay.chain.deployments import TOKEN, Deployment
from assay.chain.keys import load_key, read_password
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender, SenderOptions
from assay.cli.output import command_errors, console, emit_json, json_option
from assay.cli.serving import serve
from assay.commitments.identifiers import checksum_address
from assay.settings import Settings

DEFAULT_PORT = 8604


@click.group()
def command() -> None:
    """Settle x402 payments for nodes on this machine."""


@command.command()
@click.option("--account", required=True, help="Ape alias or keystore v3 file of the key that pays the gas")
@click.option(
    "--password-file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="file with the keystore's password",
)
@click.option("--rpc", "rpc_urls", multiple=True, help="RPC URL, repeatable; default ASSAY_RPC_URLS")
@click.option("--chain-id", type=click.IntRange(min=1), help="default ASSAY_CHAIN_ID")
@click.option(
    "--deployments",
    type=click.Path(file_okay=False, path_type=Path),
    help="folder of contract addresses; default ASSAY_DEPLOYMENTS",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="folder of what was sent; default `facilitator` in ASSAY_DATA",
)
@click.option("--payee", "payees", multiple=True, help="settle payments to this account alone, repeatable")
@click.option("--host", default="127.0.0.1", show_default=True, help="whoever reaches it can spend its gas")
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535))
@click.option("--confirmations", default=1, show_default=True, type=click.IntRange(1, 256))
@click.option(
    "--wait-seconds",
    default=20.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="longest wait for a payment's transaction; then it is `settlement_pending`",
)
@click.option("--max-fee", type=click.IntRange(min=1), help="wei per gas: never bid more")
@json_option
@command_errors
def run(  # noqa: PLR0917 - options
    account: str,
    password_file: Path,
    rpc_urls: tuple[str, ...],
    chain_id: int | None,
    deployments: Path | None,
    data: Path | None,
    payees: tuple[str, ...],
    host: str,
    port: int,
    confirmations: int,
    wait_seconds: float,
    max_fee: int | None,
    as_json: bool,
) -> None:
    """Verify and settle payments until Ctrl-C.

    With --json (or ASSAY_LOG_JSON) log lines are JSON; they go to standard error.
    """
    from assay.cli.logs import configure_logs
    from assay.facilitator.app import create_app
    from assay.facilitator.settling import LocalFacilitator, Rules
    from assay.facilitator.signer import FacilitatorSigner

    settings = Settings()
    configure_logs(as_json=as_json or settings.log_json)
    key = load_key(account, read_password(password_file))
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(
            ChainClient(list(rpc_urls) or settings.rpc_urls, chain_id or settings.chain_id)
        )
        deployment = Deployment.load(deployments or settings.deployments, client.chain_id)
        outbox = Outbox((data or settings.data / "facilitator") / "outbox.sqlite3")
        stack.callback(outbox.close)
        options = SenderOptions(confirmations=confirmations, max_fee=max_fee)
        sender = stack.enter_context(Sender(client, key, outbox, options))
        rules = Rules(
            client.chain_id, deployment.address(TOKEN), frozenset(checksum_address(payee) for payee in payees)
        )
        signer = FacilitatorSigner(client, sender, wait_seconds=wait_seconds)

        def announce(url: str) -> None:
            if as_json:
                emit_json(
                    {"url": url, "network": rules.network, "token": rules.token, "account": key.address}
                )
            else:
                console().print(
                    f"facilitator on {url}: {rules.network}, token {rules.token}, gas from {key.address}; "
                    "Ctrl-C stops it"
                )

        serve(create_app(LocalFacilitator(signer, rules)), host, port, announce)
