"""`assay receipt`: show a receipt, verify it from the chain alone, re-execute it from one's own copy."""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from assay.cli.connect import Connection, Money, connection_options
from assay.cli.output import command_errors, console, emit_json, emit_table, json_option
from assay.client import Client, Report, verify_receipt
from assay.client.proofs import find_proof, proof_from_json, proof_to_json
from assay.client.verify import Proof, time_text
from assay.commitments.parsing import parse_hash
from assay.commitments.public_data import ReceiptData
from assay.commitments.receipts import receipt_digest, receipt_file_from_json, receipt_file_to_json
from assay.errors import AssayError, RequestError, RetryableError, VerificationError
from assay.types import Domain, SignedReceipt

_DIGEST = re.compile(r"0x[0-9a-fA-F]{64}")
RECHECK_CODES = {"exact": 0, "wrong": VerificationError.exit_code, "not exact": RequestError.exit_code}
MARKS = {True: Text("ok", "green"), False: Text("FAILED", "red"), None: Text("open", "yellow")}


@click.group()
def command() -> None:
    """Show and verify receipts.

    A receipt is named by its file or by its digest (0x…); digests are looked up in the data folder, then in
    the API.
    """


@command.command()
@click.argument("receipt")
@connection_options
@json_option
@command_errors
def show(receipt: str, connection: Connection, as_json: bool) -> None:
    """What RECEIPT states."""
    with connection.open(with_key=False) as client:
        domain, signed, _ = _find(client, receipt)
        file = receipt_file_to_json(domain, signed)
        if as_json:
            emit_json(file)
            return
        money = Money.of(client) if domain == client.domain else None
        rows = [(name, value) for name, value in file.items() if name not in ("signature", "digest")]
        if money:
            rows = [(name, money.show(int(value)) if name == "price" else value) for name, value in rows]
        emit_table(f"receipt {file['digest']}", ("field", "value"), rows)


@command.command(name="list")
@connection_options
@json_option
@command_errors
def list_receipts(connection: Connection, as_json: bool) -> None:
    """Receipts that this data folder holds, oldest first."""
    with connection.open(with_key=False) as client:
        files = [json.loads(file) for file in client.store.receipts()]
    if as_json:
        emit_json(files)
        return
    rows = [(file["digest"], file["node"], file["sequence"], file["executed_at"]) for file in files]
    emit_table(f"{len(files)} receipts", ("digest", "node", "sequence", "executed at"), rows)


@command.command()
@click.argument("receipt")
@click.option("--proof", "proof_path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@connection_options
@json_option
@command_errors
def verify(receipt: str, proof_path: Path | None, connection: Connection, as_json: bool) -> None:
    """Check RECEIPT from the chain alone: signature, registration, version, inclusion, finality.

    Where it lies in its batch is asked of the API or of its node and checked against the chain; --proof FILE
    gives it by hand. Exit code 0: final; 3: nothing wrong, but not final yet; 6: a step failed.
    """
    with connection.open(with_key=False) as client:
        domain, signed, proof_data = _find(client, receipt)
        if proof_path is not None:
            proof_data = _load_json(proof_path)
        proof = _proof(client, domain, signed, proof_data)
        report = verify_receipt(client.chain, client.deployment, domain, signed, proof)
    if as_json:  # one document, whatever it says
        _emit_report(report, proof)
        sys.exit(_exit_code(report))
    _explain(report)
    if report.failed:
        failed = report.failed[0]
        raise VerificationError(
            f"receipt 0x{report.digest.hex()} does not verify: {failed.name} failed, {failed.detail}",
            step=failed.name,
        )
    if not report.is_final:
        raise RetryableError(
            f"receipt 0x{report.digest.hex()} has no fault, but is not final yet; verify it again later"
        )


@command.command()
@click.argument("receipt")
@click.option(
    "--tensors",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="inputs and outputs as a node's /data gives them; default the data folder's copy, else the node's",
)
@click.option("--dispute", is_flag=True, help="if it is wrong, dispute it and play the dispute to its end")
@connection_options
@json_option
@command_errors
def recheck(
    *, receipt: str, tensors: Path | None, dispute: bool, connection: Connection, as_json: bool
) -> None:
    """Re-execute RECEIPT here, by the exact evaluator, and compare with what its node signed.

    Exit code 0: exact; 6: wrong; 2: not exact, so that re-executing it proves nothing.
    """
    from assay.client.recheck import Recheck, disputable_until
    from assay.client.recheck import recheck as recheck_receipt

    with connection.open(with_key=False) as client:
        domain, signed, _ = _find(client, receipt)
        data = None if tensors is None else ReceiptData.from_json(_load_json(tensors))
        found = recheck_receipt(client, domain, signed, data)
        is_wrong = found.verdict is Recheck.WRONG
        until = disputable_until(client, signed) if is_wrong else None
    name = f"receipt 0x{found.digest.hex()}"
    if is_wrong and dispute and until and found.data is not None:
        click.echo(f"{name} is wrong: {found.reason}; disputing it", err=True)
        _dispute(connection, signed, found.data, as_json)
        return
    if as_json:  # one document, whatever it says
        emit_json(
            {
                "digest": found.digest,
                "verdict": found.verdict,
                "reason": found.reason,
                "disputable_until": until,
            }
        )
        sys.exit(RECHECK_CODES[str(found.verdict)])
    if found.verdict is Recheck.EXACT:
        console().print(Text("exact", "green"), f": {name} is what its program computes here", sep="")
    if is_wrong:
        cure = (
            f"dispute it before {time_text(until)}: `assay receipt recheck {receipt} --dispute`"
            if until
            else "its dispute window has passed"
        )
        raise VerificationError(f"{name} is wrong: {found.reason}; {cure}", step="output")
    if found.verdict is Recheck.NOT_EXACT:
        raise RequestError(f"{name} is not exact: {found.reason}", code="not_exact")


def _dispute(connection: Connection, signed: SignedReceipt, data: ReceiptData, as_json: bool) -> None:
    """By the watcher's challenger, in its own folder."""
    from assay.cli.dispute import WATCH_FOLDER, open_by_hand, play_until_closed
    from assay.watch.setup import challenge_by_hand

    connection = replace(connection, data=connection.settings.data / WATCH_FOLDER[0])
    with ExitStack() as stack:
        watch = open_by_hand(connection, None, stack, node=signed.receipt.node)
        digest = challenge_by_hand(watch, signed, json.dumps(data.to_json()).encode())
        play_until_closed(watch, lambda record: record.opened.digest == digest, as_json)


def _exit_code(report: Report) -> int:
    if report.failed:
        return VerificationError.exit_code
    return 0 if report.is_final else RetryableError.exit_code


def _proof(client: Client, domain: Domain, signed: SignedReceipt, data: Any) -> Proof | None:
    if data is not None:
        return proof_from_json(data, signed.receipt)
    if domain != client.domain:
        return None
    return find_proof(client.chain, client.deployment, signed.receipt, client.http, client.accelerator)


def _emit_report(report: Report, proof: Proof | None) -> None:
    emit_json(
        {
            "digest": report.digest,
            "assurance": report.assurance,
            "final": report.is_final,
            "verified": report.is_verified,
            "steps": [{"name": s.name, "ok": s.ok, "detail": s.detail} for s in report.steps],
            "proof": proof_to_json(proof) if proof else None,
        }
    )


def _explain(report: Report) -> None:
    rows = [(step.name, MARKS[step.ok], step.detail) for step in report.steps]
    emit_table(f"receipt 0x{report.digest.hex()}", ("step", "", "what was found"), rows)
    if report.is_verified:
        console().print(
            Text("verified", "green"),
            ": final, and a wrong output could have been proven to the contracts",
            sep="",
        )
    elif report.is_final:
        console().print(
            "final, with assurance ", Text("signed", "bold"), ": worth the word of a staked node", sep=""
        )


def _find(client: Client, text: str) -> tuple[Domain, SignedReceipt, Any]:
    """(domain, receipt, proof data if the file carries one). Raises RequestError."""
    if not _DIGEST.fullmatch(text):
        data = _load_json(Path(text))
        domain, signed = receipt_file_from_json(data)
        return domain, signed, data.get("proof")
    stored = client.store.receipt(text)
    data = json.loads(stored) if stored is not None else _from_api(client, text)
    domain, signed = receipt_file_from_json(data)
    if receipt_digest(domain, signed.receipt) != parse_hash(text, "digest"):
        raise VerificationError(f"the receipt that the API gave for {text} has another digest", step="digest")
    return domain, signed, None


def _from_api(client: Client, digest: str) -> Any:
    data = None
    if client.accelerator is not None:
        try:
            data = client.accelerator.get(f"/v1/receipts/{digest}")
        except AssayError:
            data = None
    if not isinstance(data, dict):
        raise RequestError(
            f"receipt {digest} is neither in {client.data} nor known to the API; give its file",
            status=404,
            code="receipt_unknown",
        )
    found = data.get("receipt", data)
    return {"chain_id": client.domain.chain_id, "settlement": client.domain.settlement} | found


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{path} is no receipt file: {error}; give the file that `assay infer --receipt` wrote, or a "
            "digest",
            code="receipt_file",
        ) from None
