"""Deploy the contracts: `ape run deploy --network ethereum:local:foundry`. A second run continues."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from ape.api import ProviderAPI
from ape.cli import ConnectedProviderCommand, network_option
from ape.exceptions import ApeException
from ape.logging import logger as ape_logger
from assay.chain.client import ChainClient
from assay.chain.keys import keystore_address, load_key, read_password
from assay.chain.outbox import Outbox
from assay.cli.output import command_errors, emit_json, emit_table, json_option, progress_console
from assay.commitments.identifiers import checksum_address
from assay.commitments.signing import SigningKey
from assay.errors import ConfigurationError, FatalError
from assay.types import Address

from scripts.deployment.compiler import ROOT
from scripts.deployment.deployer import Deployer, Report
from scripts.deployment.plan import DAY, EXPLORERS, LOCAL_CHAINS, Terms, check_terms, check_token
from scripts.deployment.sourcify import verify

# Ape starts Anvil by name; it is the locked npm package's.
os.environ["PATH"] = f"{ROOT / 'node_modules' / '.bin'}{os.pathsep}{os.environ.get('PATH', '')}"

if "--json" in sys.argv:  # Ape logs to standard output
    ape_logger.set_level("WARNING")

SOURCIFY = "https://sourcify.dev/server"


class AddressType(click.ParamType):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return checksum_address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


ADDRESS = AddressType()


class DeployCommand(ConnectedProviderCommand):
    """Says in one line why Ape cannot connect."""

    def invoke(self, ctx: click.Context) -> Any:
        @command_errors
        def connect_and_run(as_json: bool) -> Any:
            try:
                return ConnectedProviderCommand.invoke(self, ctx)
            except ApeException as error:
                raise ConfigurationError(
                    f"the network cannot be used: {error} Check --network; public networks' RPC URLs are in "
                    "SEPOLIA_RPC_URL and BASE_SEPOLIA_RPC_URL, or as in --network ethereum:sepolia:URL"
                ) from error

        return connect_and_run(as_json=bool(ctx.params.get("as_json")))


@click.command(cls=DeployCommand, context_settings={"show_default": True})
@network_option()
@click.option("--account", help="Ape alias, keystore v3 file, or TEST::n on a local chain (its default)")
@click.option("--password-file", type=click.Path(path_type=Path), help="file with the keystore's password")
@click.option("--token", type=ADDRESS, help="payment token; on a local chain a mock is deployed without it")
@click.option("--owner", type=ADDRESS, help="may pause and set bounded fees; default: the account")
@click.option("--treasury", type=ADDRESS, help="credited with protocol fees; default: the owner")
@click.option("--disputes/--no-disputes", "has_disputes", default=True, help="without: nobody can slash")
@click.option("--min-stake", type=int, default=1_000 * 10**18, help="in the token's base unit")
@click.option("--fee-bps", type=int, default=100, help="protocol fee in 1/10,000, at most 500")
@click.option("--dispute-window", type=int, default=DAY, help="seconds from posting to finality")
@click.option("--escrow-thaw", type=int, default=2 * DAY, help="seconds a consumer waits to withdraw")
@click.option("--node-thaw", type=int, default=7 * DAY, help="seconds a node waits to withdraw stake")
@click.option("--bond", type=int, default=10 * 10**18, help="of a challenger; pays an honest node's gas")
@click.option("--slash-amount", type=int, help="for a proven fraud; default: --min-stake")
@click.option("--move-window", type=int, default=3_600, help="seconds for each move of a dispute")
@click.option("--chain-id", type=int, help="refuse any other chain")
@click.option("--deployments", type=click.Path(path_type=Path), default=Path("deployments"), help="folder")
@click.option("--confirmations", type=int, help="blocks to wait for; default: 1 locally, else 2")
@click.option("--verify", "is_verifying", is_flag=True, help="verify the sources on Sourcify")
@click.option("--sourcify-url", default=SOURCIFY, help="Sourcify server")
@json_option
@command_errors
def cli(provider: ProviderAPI, as_json: bool, **options: Any) -> None:
    """Deploy the registries, Settlement and the dispute game; continue where an earlier run stopped."""
    with ChainClient(_url_of(provider)) as client:
        chain_id = client.chain_id
        if options["chain_id"] not in (None, chain_id):
            raise ConfigurationError(
                f"the network is chain {chain_id}, expected {options['chain_id']}; check --network"
            )
        is_local = chain_id in LOCAL_CHAINS
        key = _load_account(options["account"], options["password_file"], is_local, provider)
        terms = _terms(options, key.address)
        check_terms(terms, is_local=is_local)
        if terms.token is not None:
            check_token(client, terms.token)
        home = options["deployments"] / str(chain_id)
        if is_local:
            _forget_vanished_chain(client, home)
        confirmations = options["confirmations"] or (1 if is_local else 2)
        say = progress_console().print
        deployer = Deployer(client, key, options["deployments"], terms, confirmations, notify=say)
        report = deployer.run()
    names = [*report.deployed, *report.reused] if options["is_verifying"] else []
    verified = {name: verify(options["sourcify_url"], home, name, chain_id) for name in names}
    _show(report, chain_id, home, verified, as_json)


def _url_of(provider: ProviderAPI) -> str:
    url = getattr(provider, "http_uri", None) or getattr(provider, "uri", None)
    if not isinstance(url, str) or not url.startswith("http"):
        raise ConfigurationError("the network has no HTTP RPC URL; use --network ecosystem:network:http://…")
    return url


def _load_account(
    account: str | None, password_file: Path | None, is_local: bool, provider: ProviderAPI
) -> SigningKey:
    """Ape's test accounts on local chains; else a keystore (password: file, Ape's variable or prompt)."""
    if account is None and is_local:
        account = "TEST::0"
    if account is None:
        raise ConfigurationError("name the deploying account: --account ALIAS, or a keystore file")
    if account.upper().startswith("TEST::"):
        if not is_local:
            raise ConfigurationError(f"{account} has a published key: use a keystore on a public network")
        number = account[6:]
        test_accounts = provider.account_manager.test_accounts
        if not number.isdigit() or int(number) >= len(test_accounts):
            raise ConfigurationError(f"there is no test account {account}; use TEST::0 to TEST::9")
        return SigningKey(bytes.fromhex(test_accounts[int(number)].private_key.removeprefix("0x")))
    address = keystore_address(account)
    if password_file is not None:
        password = read_password(password_file)
    else:
        password = os.environ.get(f"APE_ACCOUNTS_{account}_PASSPHRASE", "")
    if not password and sys.stdin.isatty():
        password = click.prompt(f"Password of {account} ({address})", hide_input=True, err=True)
    if not password:
        raise ConfigurationError(f"{account} is locked: give --password-file, or run in a terminal")
    return load_key(account, password)


def _terms(options: dict[str, Any], account: Address) -> Terms:
    owner = options["owner"] or account
    return Terms(
        token=options["token"],
        owner=owner,
        treasury=options["treasury"] or owner,
        has_disputes=options["has_disputes"],
        min_stake=options["min_stake"],
        fee_bps=options["fee_bps"],
        dispute_window=options["dispute_window"],
        escrow_thaw=options["escrow_thaw"],
        node_thaw=options["node_thaw"],
        bond=options["bond"],
        slash_amount=options["slash_amount"] or options["min_stake"],
        move_window=options["move_window"],
    )


def _forget_vanished_chain(client: ChainClient, home: Path) -> None:
    """A local chain that was started afresh: what an earlier one held is gone, and so are its records."""
    if not (home / "outbox.sqlite3").exists():
        return
    try:
        with Outbox(home / "outbox.sqlite3") as outbox:
            outbox.bind_chain(client.chain_id, client.get_block(0).hash)
    except FatalError:
        progress_console().print(f"the local chain was restarted: forgetting {home}")
        shutil.rmtree(home)


def _show(report: Report, chain_id: int, home: Path, verified: dict[str, str], as_json: bool) -> None:
    explorer = EXPLORERS.get(chain_id, "")
    links = {name: explorer + address for name, address in report.addresses.items()} if explorer else {}
    if as_json:
        emit_json(
            {
                "chain_id": chain_id,
                "folder": str(home),
                "addresses": report.addresses,
                "deployed": report.deployed,
                "reused": report.reused,
                "gas_used": report.gas_used,
                "explorer": links,
                "verified": verified,
            }
        )
        return
    columns = [
        "contract",
        "address",
        "now",
        *(["explorer"] if links else []),
        *(["source"] if verified else []),
    ]
    rows = []
    for name, address in report.addresses.items():
        state = "deployed" if name in report.deployed else "reused" if name in report.reused else "given"
        row = [name, address, state, *([links[name]] if links else [])]
        rows.append([*row, *([verified.get(name, "")] if verified else [])])
    emit_table(f"Contracts on chain {chain_id}, written to {home}", columns, rows)
