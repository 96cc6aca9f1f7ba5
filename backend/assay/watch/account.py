"""One dispute as people ask about it: its record, what it cost each side, what can be recomputed of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from assay.chain.client import ChainClient, hex_bytes
from assay.chain.disputes import DisputeRecord
from assay.commitments.identifiers import checksum_address
from assay.errors import AssayError
from assay.exact.game import Side
from assay.exact.program import Program
from assay.exact.trace import Trace
from assay.types import Address, Hash32
from assay.watch.explain import Claim, claim_of, standing_text, verdict
from assay.watch.programs import Programs
from assay.watch.traces import NoTraceError, Traces


@dataclass(frozen=True, slots=True)
class GasBill:
    """What one side's transactions of a dispute cost. Amounts in gas and wei."""

    transactions: int = 0
    gas: int = 0
    wei: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """`unknown`: why names or true values are missing, for people."""

    record: DisputeRecord
    sentence: str
    standing: str
    claim: Claim | None
    unknown: str
    gas: dict[Side, GasBill] = field(default_factory=dict)


def fetch_gas(client: ChainClient, records: Sequence[DisputeRecord]) -> dict[int, dict[Side, GasBill]]:
    """By dispute and side, from the transactions' receipts: who sent it paid it. Closing a dispute of others'
    counts for the winner's side.
    """
    hashes = [(record, tx) for record in records for tx in record.transactions]
    found = client.batch([("eth_getTransactionReceipt", [hex_bytes(tx)]) for _, tx in hashes])
    bills: dict[int, dict[Side, GasBill]] = defaultdict(lambda: dict.fromkeys(Side, GasBill()))
    for (record, _), raw in zip(hashes, found, strict=True):
        if raw is not None:
            side = _payer(record, checksum_address(raw["from"]))
            gas, price = int(raw["gasUsed"], 16), int(raw.get("effectiveGasPrice", "0x0"), 16)
            bill = bills[record.dispute_id][side]
            bills[record.dispute_id][side] = GasBill(
                bill.transactions + 1, bill.gas + gas, bill.wei + gas * price
            )
    return dict(bills)


def _payer(record: DisputeRecord, sender: Address) -> Side:
    return Side.CHALLENGER if sender == record.challenger else Side.NODE


def recompute(
    record: DisputeRecord, programs: Programs, traces: Traces
) -> tuple[Program | None, Trace | None, str]:
    """The program and the true trace as far as artifact and data can be had; else why not."""
    try:
        program = programs.get(record.receipt.version_id)
    except AssayError as error:
        return None, None, f"the model cannot be had: {error}"
    try:
        return program, traces.get(Hash32(record.opened.digest), record.signed), ""
    except NoTraceError as error:
        return program, None, f"the signed inputs are none of the program's: {error}"
    except AssayError as error:
        return program, None, f"true values are not known: {error}"


def account_for(
    record: DisputeRecord,
    now: int,
    program: Program | None,
    trace: Trace | None,
    *,
    unknown: str = "",
    gas: dict[Side, GasBill] | None = None,
) -> Account:
    return Account(
        record,
        verdict(record, program, trace),
        standing_text(record, now),
        claim_of(record, program, trace),
        unknown,
        gas or {},
    )
