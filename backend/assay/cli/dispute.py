"""`assay dispute`: list disputes, explain one in words, open and play one by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli.connect import Connection, connection_options_for, format_amount
from assay.cli.output import command_errors, console, emit_json, emit_table, json_option
from assay.cli.watch import load_account
from assay.errors import RequestError

if TYPE_CHECKING:
    from assay.chain.disputes import DisputeRecord
    from assay.watch.account import Account
    from assay.watch.contracts import Contracts
    from assay.watch.setup import Watch, WatchOptions

WATCH_FOLDER = ("watch", "what is known, kept and sent")


@click.group()
def command() -> None:
    """List, explain and play disputes."""


@command.command(name="list")
@click.option("--open", "wanted", flag_value="open", help="open ones alone")
@click.option("--closed", "wanted", flag_value="closed", help="closed ones alone")
@click.option("--node", metavar="ADDRESS", help="of this node")
@click.option("--challenger", metavar="ADDRESS", help="by this challenger")
@click.option("--version", metavar="MODEL@N", help="about this version")
@connection_options_for(*WATCH_FOLDER)
@json_option
@command_errors
def list_disputes(
    *,
    wanted: str | None,
    node: str | None,
    challenger: str | None,
    version: str | None,
    connection: Connection,
    as_json: bool,
) -> None:
    """Disputes of the deployment, oldest first, from the chain alone."""
    from assay.watch.account import account_for, fetch_gas

    with ExitStack() as stack:
        contracts = open_contracts(connection, stack)
        records = find_records(contracts, node=node, challenger=challenger, version=version)
        records = [r for r in records if wanted is None or r.is_open == (wanted == "open")]
        gas = fetch_gas(contracts.client, records)
        now = contracts.client.get_block().timestamp
    accounts = [account_for(r, now, None, None, gas=gas.get(r.dispute_id)) for r in records]
    if as_json:
        emit_json([account_json(account) for account in accounts])
        return
    rows = [(a.record.dispute_id, a.standing, f"{a.sentence}\nby {a.record.challenger}") for a in accounts]
    emit_table(f"{len(rows)} disputes", ("dispute", "standing", "claim"), rows)


@command.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--no-recompute", is_flag=True, help="from the chain alone: neither names nor true values")
@click.option("--hub", "hub_url", help="artifact hub; default ASSAY_HUB_URL")
@connection_options_for(*WATCH_FOLDER)
@json_option
@command_errors
def show(number: int, no_recompute: bool, hub_url: str | None, connection: Connection, as_json: bool) -> None:
    """Explain dispute NUMBER: receipt, tensor, element, claimed and true value, whose move, gas, outcome.

    The true value is recomputed here where the model is in the hub and the receipt's data are public, or kept
    in the watch's folder.
    """
    from assay.watch.account import account_for, fetch_gas, recompute
    from assay.watch.setup import open_judge

    with ExitStack() as stack:
        contracts = open_contracts(connection, stack)
        (record,) = find_records(contracts, ids=[number])
        program, trace, unknown = None, None, "not recomputed (--no-recompute)"
        if not no_recompute:
            judge = stack.enter_context(
                open_judge(contracts, connection.data, hub_url or connection.settings.hub_url)
            )
            program, trace, unknown = recompute(record, *judge)
        gas = fetch_gas(contracts.client, [record]).get(number)
        now = contracts.client.get_block().timestamp
        money = (contracts.token.symbol(), contracts.token.decimals(), contracts.game.bond())
    account = account_for(record, now, program, trace, unknown=unknown, gas=gas)
    if as_json:
        emit_json(account_json(account))
    else:
        explain(account, *money)


@command.command(name="open")
@click.argument("receipt", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--tensors",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="inputs and outputs as a node's /data gives them, for a private receipt",
)
@click.option("--hub", "hub_url", help="artifact hub; default ASSAY_HUB_URL")
@connection_options_for(*WATCH_FOLDER)
@json_option
@command_errors
def open_dispute(
    receipt: Path, tensors: Path | None, hub_url: str | None, connection: Connection, as_json: bool
) -> None:
    """Dispute the receipt in file RECEIPT without judging it first, and play the dispute to its end."""
    from assay.watch.setup import challenge_by_hand

    domain, signed = read_receipt(receipt)
    with ExitStack() as stack:
        watch = open_by_hand(connection, hub_url, stack, node=signed.receipt.node)
        if domain != watch.contracts.domain:
            raise RequestError(
                f"the receipt is of chain {domain.chain_id}, settlement {domain.settlement}; "
                "the deployment in use is another",
                code="receipt_domain",
            )
        digest = challenge_by_hand(watch, signed, None if tensors is None else tensors.read_bytes())
        play_until_closed(watch, lambda record: record.opened.digest == digest, as_json)


@command.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--hub", "hub_url", help="artifact hub; default ASSAY_HUB_URL")
@connection_options_for(*WATCH_FOLDER)
@json_option
@command_errors
def play(number: int, hub_url: str | None, connection: Connection, as_json: bool) -> None:
    """Play own dispute NUMBER to its end: point at what differs, claim time-outs."""
    with ExitStack() as stack:
        contracts = open_contracts(connection, stack)
        (record,) = find_records(contracts, ids=[number])
        watch = open_by_hand(connection, hub_url, stack, node=record.node)
        if record.challenger != watch.me:
            raise RequestError(
                f"dispute {number} is {record.challenger}'s to play, this account is {watch.me}",
                code="not_challenger",
            )
        play_until_closed(watch, lambda found: found.dispute_id == number, as_json)


def open_contracts(connection: Connection, stack: ExitStack) -> Contracts:
    from assay.chain.client import ChainClient
    from assay.chain.deployments import Deployment
    from assay.watch.contracts import Contracts

    client = stack.enter_context(ChainClient(connection.rpc_urls, connection.settings.chain_id))
    return Contracts.of(client, Deployment.load(connection.deployments, client.chain_id))


def find_records(
    contracts: Contracts,
    *,
    ids: list[int] | None = None,
    node: str | None = None,
    challenger: str | None = None,
    version: str | None = None,
) -> list[DisputeRecord]:
    """By number. Raises RequestError where one of `ids` does not exist."""
    from assay.chain.disputes import fetch_disputes
    from assay.commitments.parsing import parse_address
    from assay.watch.setup import resolve_version

    records = fetch_disputes(
        contracts.client,
        contracts.game,
        contracts.deployment.block,
        node=None if node is None else parse_address(node, "node"),
        challenger=None if challenger is None else parse_address(challenger, "challenger"),
        ids=ids,
    )
    for number in ids or ():
        if number not in records:
            raise RequestError(
                f"there is no dispute {number}; `assay dispute list` shows those there are",
                status=404,
                code="dispute_unknown",
            )
    wanted = None if version is None else resolve_version(version, contracts.models)
    return [r for r in records.values() if wanted in (None, r.receipt.version_id)]


def read_receipt(path: Path) -> tuple[Any, Any]:
    """(domain, signed receipt). Raises RequestError."""
    from assay.commitments.receipts import receipt_file_from_json

    try:
        return receipt_file_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no receipt file: {error}", code="receipt_file") from None


def open_by_hand(connection: Connection, hub_url: str | None, stack: ExitStack, *, node: str) -> Watch:
    """A watch that chooses nothing by itself: it plays what is open."""
    from assay.cli.logs import configure_logs
    from assay.types import Address
    from assay.watch.setup import WatchOptions, open_watch

    configure_logs(as_json=connection.settings.log_json)
    options: WatchOptions = WatchOptions(
        rpc_urls=connection.rpc_urls,
        chain_id=connection.settings.chain_id,
        deployments=connection.deployments,
        data=connection.data,
        hub_url=hub_url or connection.settings.hub_url,
        rate=0.0,
        nodes=frozenset((Address(node),)),
    )
    return stack.enter_context(open_watch(options, load_account(connection)))


def play_until_closed(watch: Watch, is_it: Callable[[DisputeRecord], bool], as_json: bool) -> None:
    from assay.cli.index import stopped_by_signals
    from assay.watch.account import account_for
    from assay.watch.setup import play

    with stopped_by_signals(watch.stop):
        record = play(watch, is_it)
    if record is None:
        raise KeyboardInterrupt
    account = account_for(record, watch.contracts.client.get_block().timestamp, None, None)
    if as_json:
        emit_json(account_json(account))
    else:
        click.echo(f"dispute {record.dispute_id}: {account.standing}; {account.sentence}")


def account_json(account: Account) -> dict[str, Any]:
    """Amounts as decimal strings, hashes as 0x hex."""
    record, claim, closing = account.record, account.claim, account.record.closing
    state = record.state
    return {
        "dispute_id": record.dispute_id,
        "verdict": account.sentence,
        "standing": account.standing,
        "unknown": account.unknown,
        "state": "open" if closing is None else "node_won" if closing.node_won else "challenger_won",
        "node": record.node,
        "challenger": record.challenger,
        "digest": record.opened.digest,
        "version_id": record.receipt.version_id,
        "batch_id": record.opened.batch_id,
        "phase": state.phase.name,
        "turn": record.side,
        "deadline": state.deadline,
        "moves": [{"phase": m.phase.name, "transaction": m.transaction_hash} for m in record.moves],
        "claim": None
        if claim is None
        else {
            "kernel": claim.kernel,
            "tensor": claim.tensor,
            "op_type": claim.op_type,
            "element": claim.element,
            "place": claim.place,
            "claimed": claim.claimed_text,
            "true": claim.true_text,
        },
        "outcome": None
        if closing is None
        else {
            name: str(getattr(closing, name))
            for name in ("slashed", "to_challenger", "to_consumer", "to_treasury")
        },
        "gas": {
            str(side): {"transactions": bill.transactions, "gas": bill.gas, "wei": str(bill.wei)}
            for side, bill in account.gas.items()
        },
    }


def explain(account: Account, symbol: str, decimals: int, bond: int) -> None:
    """For people."""
    record, claim, closing = account.record, account.claim, account.record.closing

    def tokens(units: int) -> str:
        return f"{format_amount(units, decimals)} {symbol}"

    rows: list[tuple[str, Any]] = [
        ("receipt", f"0x{record.opened.digest.hex()}"),
        ("node", record.node),
        ("challenger", record.challenger),
        ("consumer", record.receipt.consumer),
        ("version", f"0x{record.receipt.version_id.hex()}"),
        ("standing", account.standing),
        ("moves", len(record.moves)),
    ]
    if claim is not None:
        rows += [
            ("tensor", f"{claim.tensor} ({claim.op_type or 'operator unknown'}), kernel {claim.kernel}"),
            ("element", claim.place),
            ("claimed", claim.claimed_text),
            ("true", claim.true_text or account.unknown),
        ]
    elif account.unknown:
        rows.append(("not known", account.unknown))
    for side, bill in account.gas.items():
        coins = f"{format_amount(bill.wei, 18)} of the chain's coin"
        rows.append((f"{side} paid", f"{bill.gas} gas, {coins}, in {bill.transactions} transactions"))
    if closing is None:
        rows.append(("bond", tokens(bond)))
    elif closing.node_won:
        rows.append(("bond to the node", tokens(bond)))
    else:
        shares = ("slashed", "to_challenger", "to_consumer", "to_treasury")
        rows += [(name.replace("_", " "), tokens(getattr(closing, name))) for name in shares]
        rows.append(("bond back", tokens(bond)))
    emit_table(f"dispute {record.dispute_id}", ("what", ""), rows)
    console().print(account.sentence, soft_wrap=True)
