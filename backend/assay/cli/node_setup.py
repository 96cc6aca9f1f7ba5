"""Gathers what `assay node init` needs from options, the existing node.toml, the environment and, at a
terminal, the user."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from assay.chain.client import ChainClient
from assay.chain.contracts import NodeRegistry, Token
from assay.chain.deployments import Deployment
from assay.chain.keys import keystore_address, load_key, read_password
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender
from assay.cli.connect import parse_amount
from assay.cli.node import merge_versions, parse_served
from assay.commitments.identifiers import checksum_address
from assay.errors import ConfigurationError
from assay.node.config import FILE, NodeConfig, VersionConfig, load_config, parse_config, resolve_path
from assay.node.models.loader import describe_version
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.setup import Registrar, Step, create_signer, withdraw_offers, write_folder
from assay.node.startup import open_chain
from assay.settings import Settings
from assay.types import Address

OPERATOR_OUTBOX = "operator-outbox.sqlite3"


def initialise(folder: Path, options: dict[str, Any]) -> Iterator[Step]:
    """Does the steps as they are asked for. Raises AssayError with the cure."""
    settings = Settings()
    known = load_config(folder) if (folder / FILE).exists() else None
    account = _account(options, settings)
    with ExitStack() as stack:
        urls = list(options["rpc_urls"]) or (known.rpc_urls if known else settings.rpc_urls)
        client = stack.enter_context(ChainClient(urls, known.chain_id if known else settings.chain_id))
        deployments = _deployments(folder, options, known, settings)
        deployment = Deployment.load(deployments, client.chain_id)
        decimals = Token(client, deployment).decimals()
        ask = not options["yes"] and sys.stdin.isatty()
        config = _config(options, known, settings, urls, client.chain_id, deployments, account, decimals, ask)
        for version in config.versions:  # before anything is written or sent
            ledger = ChainLedger(client, deployment, config.node)
            describe_version(ledger, Address(version.publisher), version.name, version.number)
        yield write_folder(folder, config)
        signer, step = create_signer(folder, config)
        yield step
        key = load_key(account, _password(options, settings, account))
        outbox = stack.enter_context(Outbox(folder / OPERATOR_OUTBOX))
        sender = stack.enter_context(Sender(client, key, outbox))
        minimum = NodeRegistry(client, deployment).min_stake()
        yield from Registrar(
            client=client,
            deployment=deployment,
            config=config,
            sender=sender,
            signer=signer,
            stake=parse_amount(options["stake"], decimals) if options["stake"] else minimum,
            signer_wei=parse_amount(options["signer_gas"], 18),
            rotate=options["rotate_signer"],
        ).steps()


def withdraw_versions(folder: Path, versions: list[VersionConfig], options: dict[str, Any]) -> Iterator[Step]:
    """Withdraw the offers, then forget the versions. Raises AssayError with the cure."""
    config, settings = load_config(folder), Settings()
    account = _account(options, settings)
    gone = set(map(str, versions))
    with ExitStack() as stack:
        client, deployment = open_chain(folder, config)
        stack.enter_context(client)
        key = load_key(account, _password(options, settings, account))
        if key.address != config.node:
            raise ConfigurationError(
                f"the offers are operator {config.node}'s, the account given is {key.address}"
            )
        outbox = stack.enter_context(Outbox(folder / OPERATOR_OUTBOX))
        sender = stack.enter_context(Sender(client, key, outbox))
        yield from withdraw_offers(ChainLedger(client, deployment, config.node), sender, versions)
    kept = [version for version in config.versions if str(version) not in gone]
    yield write_folder(folder, config.model_copy(update={"versions": kept}))


def _account(options: dict[str, Any], settings: Settings) -> str:
    account = options["account"] or settings.account
    if account is None:
        raise ConfigurationError(
            "this needs the operator's account: give --account ALIAS_OR_KEYSTORE or set ASSAY_ACCOUNT; "
            "`ape accounts generate ALIAS` makes one"
        )
    return str(account)


def _deployments(folder: Path, options: dict[str, Any], known: NodeConfig | None, settings: Settings) -> Path:
    if options["deployments"]:
        return Path(options["deployments"]).resolve()
    return resolve_path(folder, known.deployments) if known else settings.deployments.resolve()


def _password(options: dict[str, Any], settings: Settings, account: str) -> str:
    path = options["password_file"] or settings.password_file
    if path is not None:
        return read_password(path)
    return str(click.prompt(f"Password of {account}", hide_input=True, err=True))


def _config(  # noqa: PLR0917 - one call, above
    options: dict[str, Any],
    known: NodeConfig | None,
    settings: Settings,
    urls: list[str],
    chain_id: int,
    deployments: Path,
    account: str,
    decimals: int,
    ask: bool,
) -> NodeConfig:
    """The configuration as it shall be: what is known, changed by the options."""
    before = known.model_dump() if known else {}
    port = options["port"] or before.get("port", 8601)
    endpoint = options["endpoint"] or before.get("endpoint")
    if endpoint is None:
        endpoint = f"http://127.0.0.1:{port}"
        if ask:
            endpoint = click.prompt("Public URL of this node", default=endpoint, err=True)
    served = list(options["serve"])
    if ask and not served and not before.get("versions"):
        answer = click.prompt(
            "Version to serve (PUBLISHER/NAME@NUMBER=PRICE, empty for none)", default="", err=True
        )
        served = [answer] if answer else []
    versions = merge_versions(
        known.versions if known else [], [parse_served(text, decimals) for text in served]
    )
    changes = {
        "operator": checksum_address(keystore_address(account)),
        "endpoint": endpoint,
        "host": options["host"] or before.get("host", "127.0.0.1"),
        "port": port,
        "rpc_urls": urls,
        "chain_id": chain_id,
        "deployments": str(deployments),
        "hub_url": options["hub_url"] or before.get("hub_url", settings.hub_url),
        "versions": [version.model_dump() for version in versions],
    }
    if known and known.operator != changes["operator"]:
        raise ConfigurationError(
            f"this folder belongs to operator {known.operator}, the account given is {changes['operator']}; "
            "give another --data folder"
        )
    return parse_config(before | changes, "what was given")
