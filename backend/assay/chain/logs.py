"""Reading a contract's events over any range: in steps that the RPC endpoint accepts."""

from __future__ import annotations

from collections.abc import Sequence

from assay.chain.contract import Contract
from assay.chain.errors import LogRangeTooLarge
from assay.chain.values import LogReceipt

FIRST_STEP_BLOCKS = 50_000
SHRINK = 8


def scan_logs(
    contract: Contract, topics: Sequence[str | Sequence[str] | None], start: int, end: int | None = None
) -> list[LogReceipt]:
    """Logs of blocks `start` to `end` (default: the head), oldest first; the range is split where it is
    refused.
    """
    last = contract.client.block_number() if end is None else end
    step, found = FIRST_STEP_BLOCKS, []
    while start <= last:
        stop = min(last, start + step - 1)
        try:
            found += contract.client.get_logs(start, stop, [contract.address], topics)
        except LogRangeTooLarge:
            if step == 1:
                raise
            step = max(1, step // SHRINK)
            continue
        start = stop + 1
    return found
