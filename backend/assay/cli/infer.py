"""`assay infer`: one request, its outputs and its receipt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from assay.cli.connect import Connection, Money, connection_options
from assay.cli.output import command_errors, console, emit_json, emit_table, json_option, progress_console
from assay.cli.tensors_io import (
    ENDINGS,
    check_writable,
    read_inputs,
    summary,
    to_plain,
    write_outputs,
)
from assay.client import AutoFund, Client, Pay, PriceTooHigh, Result
from assay.errors import RequestError


@click.command()
@click.argument("model")
@click.option("--input", "source", required=True, help=".npz, .npy or JSON file; - reads standard input")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="write outputs: .npz, .npy or .json"
)
@click.option(
    "--receipt", "receipt_path", type=click.Path(dir_okay=False, path_type=Path), help="write the receipt"
)
@click.option(
    "--max-price", help="most that this answer may cost, in tokens; more is asked about, where you can answer"
)
@click.option(
    "--pay",
    type=click.Choice([str(way) for way in Pay]),
    default=str(Pay.VOUCHER),
    show_default=True,
    help="voucher: from an escrow with the node; x402: from the account, for this request alone",
)
@click.option("--auto-fund", help="deposit this many tokens at a time when the escrow is short")
@click.option("--auto-fund-total", help="never deposit more than this in all; default: one deposit")
@click.option("--private", is_flag=True, help="keep inputs and outputs off this machine's disk")
@click.option(
    "--public", is_flag=True, help="let the node show inputs and outputs, so that watchers can check"
)
@connection_options
@json_option
@command_errors
def command(
    *,
    model: str,
    source: str,
    out: Path | None,
    receipt_path: Path | None,
    max_price: str | None,
    pay: str,
    auto_fund: str | None,
    auto_fund_total: str | None,
    private: bool,
    public: bool,
    connection: Connection,
    as_json: bool,
) -> None:
    """Send FILE to the best node that offers MODEL (publisher/name or publisher/name@version).

    The receipt is checked before it is acknowledged and is kept in the data folder; `assay receipt verify
    DIGEST` explains later what became of it. By x402 nothing is deposited before; without --max-price every
    price is asked about. An answer that got lost is fetched by the same command, and paid once.
    """
    if pay == Pay.X402 and (auto_fund, auto_fund_total) != (None, None):
        raise RequestError(
            "--auto-fund is for vouchers; x402 pays from the account, and --max-price bounds it"
        )
    if out is not None:
        check_writable(out, ENDINGS)
    if receipt_path is not None:
        check_writable(receipt_path)
    inputs = read_inputs(source)
    with connection.open() as client:
        money = Money.of(client)
        if auto_fund is not None:
            allowed = AutoFund(money.parse(auto_fund), money.parse(auto_fund_total or auto_fund))
            client.purse.auto_fund = allowed
        bound = None if max_price is None else money.parse(max_price)

        def infer(most: int | None) -> Result:
            return client.infer(model, inputs, max_price=most, private=private, public=public, pay=pay)

        try:
            result = infer(bound)
        except PriceTooHigh as error:
            if as_json or source == "-" or not agrees(money.show(error.cheapest), max_price, pay):
                raise
            result = infer(error.cheapest)
        for attempt in result.attempts:
            progress_console().print(Text("note", "yellow"), attempt, soft_wrap=True)
        try:
            _save(result, out, receipt_path)
        except (OSError, RequestError) as error:  # the answer is paid for: it is shown at least
            _show(client, result, money, None, as_json)
            progress_console().print(Text("error", "red"), error, soft_wrap=True)
            sys.exit(RequestError.exit_code)
        _show(client, result, money, out, as_json)


def agrees(price: str, max_price: str | None, pay: str) -> bool:
    """Asks whether a price above --max-price is paid; no answer is no."""
    bound = "" if max_price is None else f", more than --max-price {max_price}"
    try:
        return click.confirm(f"The cheapest answer costs {price}{bound}. Pay it by {pay}?", err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def _save(result: Result, out: Path | None, receipt_path: Path | None) -> None:
    if out is not None:
        write_outputs(out, result.outputs)
    if receipt_path is not None:
        result.save_receipt(receipt_path)


def _show(client: Client, result: Result, money: Money, out: Path | None, as_json: bool) -> None:
    if as_json:
        data: dict[str, Any] = {
            "model": result.model,
            "node": result.node,
            "price": str(result.price),
            "assurance": result.assurance,
            "latency_ms": round(result.latency_ms, 3),
            "recovered": result.is_recovered,
            "receipt": result.receipt_file(),
        }
        if result.payment is not None:
            data["payment"] = result.payment
        emit_json(data if out else data | {"outputs": to_plain(result.outputs)})
        return
    rows = [(name, array.dtype, list(array.shape), summary(array)) for name, array in result.outputs.items()]
    emit_table(result.model, ("output", "type", "shape", "values"), rows)
    receipt = result.receipt.receipt
    console().print(
        f"node {result.node} answered in {result.latency_ms:.1f} ms for {money.show(result.price)}; "
        f"receipt {receipt.sequence} of the channel, {result.assurance}",
        soft_wrap=True,
    )
    console().print(f"receipt 0x{result.digest.hex()}", soft_wrap=True)
    if result.payment is not None:
        name, transaction = result.payment["payment"], result.payment["transaction"]
        console().print(f"paid by x402, payment {name} in transaction {transaction}", soft_wrap=True)
    if result.is_recovered:
        console().print("an interrupted request had paid for this answer; nothing more was paid")
