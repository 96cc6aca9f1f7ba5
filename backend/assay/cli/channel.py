"""`assay channel`: escrow with nodes: put in, look at, take out."""

from __future__ import annotations

from typing import Any

import click

from assay.chain.logs import scan_logs
from assay.cli.connect import Connection, Money, connection_options
from assay.cli.output import command_errors, console, emit_json, emit_table, json_option
from assay.client import Client
from assay.client.verify import time_text
from assay.commitments.parsing import parse_address
from assay.errors import RequestError
from assay.types import Address


@click.group()
def command() -> None:
    """Fund, show and withdraw escrow. Amounts are decimal numbers of tokens, such as 1.5."""


@command.command()
@click.argument("node")
@click.argument("amount")
@connection_options
@json_option
@command_errors
def fund(node: str, amount: str, connection: Connection, as_json: bool) -> None:
    """Put AMOUNT tokens into the escrow with NODE; vouchers draw on it, nothing else can.

    One transaction where the token has permits (EIP-2612), otherwise an approval first.
    """
    with connection.open_funded() as client:
        money, address = Money.of(client), _node(client, node)
        receipts = client.purse.fund(address, money.parse(amount))
        escrow = client.purse.escrow(address)
    hashes = ["0x" + receipt.transaction_hash.hex() for receipt in receipts]
    gas = sum(receipt.gas_used for receipt in receipts)
    if as_json:
        emit_json({"node": address, "balance": str(escrow.balance), "transactions": hashes, "gas_used": gas})
    else:
        console().print(f"escrow with {address} is {money.show(escrow.balance)} now", soft_wrap=True)
        console().print(f"{len(hashes)} transactions, {gas} gas: {', '.join(hashes)}", soft_wrap=True)


@command.command()
@click.argument("node", required=False)
@connection_options
@json_option
@command_errors
def show(node: str | None, connection: Connection, as_json: bool) -> None:
    """Escrow with every node (or NODE), and what was promised on each channel."""
    with connection.open_funded() as client:
        nodes = [_node(client, node)] if node else _funded_nodes(client)
        money = Money.of(client)
        escrows = [_escrow_row(client, item) for item in nodes]
        channels = [row for item in nodes for row in _channel_rows(client, item)]
    if as_json:
        emit_json({"escrows": escrows, "channels": channels})
        return
    if not escrows:
        console().print("no escrow yet; `assay channel fund NODE AMOUNT` makes one")
        return
    rows = [
        (
            row["node"],
            *(money.show(int(row[name])) for name in ("balance", "free", "thawing")),
            row["thaw_text"],
        )
        for row in escrows
    ]
    emit_table("escrow", ("node", "balance", "free", "thawing", "withdrawable from"), rows)
    amounts = ("signed", "charged", "settled")
    lines = [
        (row["node"], row["version_id"][:14] + "…", *(money.show(int(row[name])) for name in amounts),
         f"{row['acknowledged']}/{row['count']}", row["state"])
        for row in channels
    ]  # fmt: skip
    emit_table("channels", ("node", "version", *amounts, "acknowledged", "state"), lines)


@command.command()
@click.argument("node")
@click.argument("amount", required=False)
@click.option("--cancel", is_flag=True, help="call a thaw off")
@connection_options
@json_option
@command_errors
def withdraw(node: str, amount: str | None, cancel: bool, connection: Connection, as_json: bool) -> None:
    """Take escrow back from NODE in two steps.

    The first call thaws AMOUNT (default: all that is free), so that the node can still present vouchers that
    it holds. After the thaw period the second call, without AMOUNT, pays out what is left of it.
    """
    with connection.open_funded() as client:
        money, address = Money.of(client), _node(client, node)
        step, detail = _withdraw(client, money, address, amount, cancel)
        escrow = client.purse.escrow(address)
    if as_json:
        emit_json(
            {"node": address, "step": step, "balance": str(escrow.balance), "thawing": str(escrow.thawing)}
        )
    else:
        console().print(detail, soft_wrap=True)


def _withdraw(
    client: Client, money: Money, node: Address, amount: str | None, cancel: bool
) -> tuple[str, str]:
    """(machine's word, sentence) for the step that is due."""
    escrow = client.purse.escrow(node)
    if cancel:
        client.purse.cancel_thaw(node)
        return "cancelled", f"the thaw is called off; all {money.show(escrow.balance)} pay vouchers as before"
    now = client.chain.get_block("latest").timestamp
    if amount is None and escrow.thawing:
        if now < escrow.thaw_at:
            raise RequestError(
                f"{money.show(escrow.thawing)} are thawing and can be withdrawn from "
                f"{time_text(escrow.thaw_at)}, in "
                f"{escrow.thaw_at - now} s of chain time; run this again then",
                code="thawing",
            )
        client.purse.withdraw(node)
        left = client.purse.escrow(node).balance
        return "withdrawn", f"withdrew {money.show(escrow.balance - left)}; {money.show(left)} are left"
    units = client.purse.free(node) if amount is None else money.parse(amount)
    if not 0 < units <= escrow.balance:
        raise RequestError(
            f"cannot thaw {money.show(units)} of {money.show(escrow.balance)} in escrow with {node}",
            code="amount_invalid",
        )
    client.purse.begin_thaw(node, units)
    ready = client.purse.escrow(node).thaw_at
    return "thawing", (
        f"{money.show(units)} are thawing; from {time_text(ready)} run `assay channel withdraw {node}` again "
        "to get them"
    )


@command.command()
@click.argument("node")
@click.argument("model")
@connection_options
@json_option
@command_errors
def forgive(node: str, model: str, connection: Connection, as_json: bool) -> None:
    """Write off what NODE withholds on a blocked channel of MODEL, and use the node again."""
    with connection.open_funded() as client:
        money = Money.of(client)
        lost = client.forgive(_node(client, node), model)
    if as_json:
        emit_json({"node": node, "written_off": str(lost)})
    else:
        console().print(f"wrote off {money.show(lost)}; the channel can be used again")


def _node(client: Client, text: str) -> Address:
    """A registered node's address. Raises RequestError."""
    address = parse_address(text, "node")
    if not client.nodes.node(address).is_registered:
        raise RequestError(
            f"{address} is not a registered node on chain {client.domain.chain_id}; a node is named by its "
            "operator's address",
            status=404,
            code="node_unknown",
        )
    return address


def _funded_nodes(client: Client) -> list[Address]:
    """Nodes that this consumer ever funded, from the chain's events."""
    settlement, consumer = client.settlement, client.consumer
    topics = [settlement.abi.topic("Funded"), "0x" + consumer[2:].lower().rjust(64, "0")]
    logs = scan_logs(settlement, topics, client.deployment.block)
    return list(dict.fromkeys(Address(settlement.decode_log(log).args["node"]) for log in logs))


def _escrow_row(client: Client, node: Address) -> dict[str, Any]:
    escrow = client.purse.escrow(node)
    return {
        "node": node,
        "balance": str(escrow.balance),
        "free": str(max(0, client.purse.free(node))),
        "thawing": str(escrow.thawing),
        "thaw_at": escrow.thaw_at,
        "thaw_text": time_text(escrow.thaw_at) if escrow.thawing else "",
    }


def _channel_rows(client: Client, node: Address) -> list[dict[str, Any]]:
    states = client.store.channels(client.domain, client.consumer, node)
    settled = client.settlement.channels([(client.consumer, node, state.version_id) for state in states])
    return [
        {
            "node": node,
            "version_id": "0x" + state.version_id.hex(),
            "signed": str(state.signed),
            "charged": str(state.charged),
            "settled": str(on_chain.settled),
            "count": state.count,
            "acknowledged": state.acknowledged,
            "state": state.blocked or ("request outstanding" if state.pending else "open"),
        }
        for state, on_chain in zip(states, settled, strict=True)
    ]
