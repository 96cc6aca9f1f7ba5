"""The receipts log at ten thousand, a million and ten million receipts: appends with real signatures,
look-ups, and a batch of a million closed, published and posted on Anvil by the settler in its own process.

Each size is measured in turns with a log of ten thousand, so that the machine's moods cancel out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.commitments.identifiers import keccak
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import SigningKey
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import Acknowledge, ChannelKey, HeldVoucher, Issue, IssuedReceipt
from assay.node.receipts.importing import Importer
from assay.node.receipts.journal_entries import Entry
from assay.node.receipts.log import ReceiptLog
from assay.types import ZERO_ADDRESS, Address, Domain, Hash32, Voucher

from scripts.benches.log_filling import PRICE, Known, fill, settle_all_but
from tests.support.nodes import Network, NodeUnderTest, Published, local_network
from tests.support.onnx_models import linear_manifest, linear_model

SMALL, BATCH = 10_000, 1_000_000
GROUP, IMPORTED, ROUNDS, LOOKUPS = 64, 500, 120, 1_000
CONSUMERS = 25
WINDOW = 3_600
FIELDS = ("name", "value", "unit", "reference", "ratio")

Row = dict[str, Any]


@dataclass
class Bench:
    """A log that grows, with what can be looked up in it."""

    folder: Path
    domain: Domain
    node: Address
    version_id: Hash32
    signer: SigningKey
    consumers: Sequence[Address]
    size: int = 0
    known: list[Known] = field(default_factory=list)
    payments: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.database = SqliteDatabase(self.folder / "receipts.sqlite3")
        self.open()

    def open(self) -> None:
        self.log = ReceiptLog(self.database, self.domain, self.node)

    def grow(self, size: int) -> None:
        self.log.close()
        self.known = fill(self.database, self.version_id, self.consumers, size - self.size)
        self.size = size
        self.open()

    def append(self, *, free: bool = False) -> float:
        """Seconds a receipt for a group of receipts, signed and on disk."""
        make = self.issue_free if free else self.issue
        items: list[Issue | Acknowledge] = [make(next(self.payments)) for _ in range(GROUP)]
        started = time.perf_counter()
        self.log.write(items, self.signer)
        self.size += GROUP
        return (time.perf_counter() - started) / GROUP

    def take_in(self) -> float:
        """Seconds a receipt for what the journal's importer takes in at once."""
        with contextlib.closing(self.database.open_file()) as db:
            importer = Importer(db)
            query = "SELECT consumer, sequence, amount FROM channels WHERE version_id = ? AND count > 0"
            held = db.execute(query, (self.version_id,)).fetchall()
            entries = []
            for consumer, sequence, amount in held:
                voucher = HeldVoucher(int.from_bytes(amount, "big"), sequence, b"\x01" * 65)
                for number in range(sequence + 1, sequence + 1 + IMPORTED // len(held)):
                    noise = os.urandom(128)
                    parts = [noise[at : at + 32] for at in range(0, 128, 32)]
                    receipt = IssuedReceipt(
                        parts[0], parts[1], parts[2], PRICE, number, int(time.time()), bytes(65)
                    )
                    entries.append(
                        Entry(ChannelKey(self.version_id, consumer), receipt, voucher, payment=parts[3])
                    )
            random.shuffle(entries)
            entries.sort(key=lambda entry: entry.receipt.sequence if entry.receipt else 0)
            importer.write(entries[:1])
            started = time.perf_counter()
            importer.write(entries[1:])
            seconds = time.perf_counter() - started
        self.size += len(entries)
        return seconds / (len(entries) - 1)

    def issue(self, number: int) -> Issue:
        unique = Hash32(keccak(number.to_bytes(32, "big")))
        key = ChannelKey(self.version_id, self.consumers[number % len(self.consumers)])
        held = HeldVoucher(PRICE * self.size + number, 0, b"\x01" * 65)
        return Issue(key, unique, unique, PRICE, held, unique)

    def issue_free(self, number: int) -> Issue:
        unique = Hash32(keccak(number.to_bytes(32, "big")))
        return Issue(ChannelKey(self.version_id, ZERO_ADDRESS), unique, unique, 0)

    def look_up(self) -> float:
        """Seconds for one receipt by its digest, one by what paid for it and the state of a channel."""
        one, other = random.choice(self.known), random.choice(self.known)
        consumer = random.choice(self.consumers)
        started = time.perf_counter()
        by_digest, by_payment = self.log.receipt(one.digest), self.log.receipt_paid_by(other.payment)
        self.log.channel(ChannelKey(self.version_id, consumer))
        seconds = time.perf_counter() - started
        if by_digest is None or by_payment is None:
            raise RuntimeError("a receipt that was written is not found")
        return seconds


def in_turns(
    small: Bench, large: Bench, measure: Callable[[Bench], float], rounds: int
) -> tuple[float, float]:
    """Medians of both, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for bench, found in zip((small, large), times, strict=True):
            found.append(measure(bench))
    return statistics.median(times[0]), statistics.median(times[1])


def compare(small: Bench, large: Bench, name: str) -> list[Row]:
    rows = []
    measures = (
        ("append", Bench.append, ROUNDS),
        ("import", Bench.take_in, ROUNDS // 4),
        ("lookup", Bench.look_up, LOOKUPS),
    )
    for what, measure, rounds in measures:
        in_turns(small, large, measure, rounds // 10)
        before, after = in_turns(small, large, measure, rounds)
        rows.append(row(f"log_{what}_{name}_over_10k", after * 1e6, "µs", before * 1e6))
    return rows


def run(options: object = None, *, rows: int = 0) -> list[Row]:
    """Rows {name, value, unit, reference, ratio}; `rows`: receipts in the log at last."""
    most = rows or int(getattr(options, "rows", 0)) or BATCH
    progress: Callable[[str], None] = getattr(options, "progress", lambda _: None)
    with (
        tempfile.TemporaryDirectory(prefix="assay-log-") as scratch,
        local_network(Path(scratch), dispute_window=WINDOW) as network,
    ):
        node = network.add_node()
        published = network.publish("linear", linear_model(), linear_manifest())
        return measure(network, node, published, most, progress)


def measure(
    network: Network, node: NodeUnderTest, published: Published, most: int, progress: Callable[[str], None]
) -> list[Row]:
    keys = [SigningKey(keccak(f"consumer {i}".encode())) for i in range(CONSUMERS)]
    who = (network.domain, node.operator, published.version_id, node.signer, [key.address for key in keys])
    small = Bench(node.folder / "small", *who)
    large = Bench(node.folder, *who)
    result: list[Row] = []
    small.grow(SMALL)
    for size, name in sizes(most):
        progress(f"filling a log with {size:,} receipts")
        started = time.perf_counter()
        large.grow(size)
        result.append(row(f"log_fill_{name}_seconds", time.perf_counter() - started, "s"))
        progress(f"appending and looking up at {size:,} receipts")
        result += compare(small, large, name)
    bytes_each = large.database.path.stat().st_size / large.size
    result.append(row("log_bytes_per_receipt", bytes_each, "B"))
    progress("closing, publishing and posting a batch of a million")
    batch = min(BATCH, most)
    settle_all_but(large.database, published.version_id, batch)
    fund(network, node, keys, large)
    return result + close_batch(network, node, large, batch, "million" if batch == BATCH else str(batch))


def sizes(most: int) -> list[tuple[int, str]]:
    """The greatest is named for what it is, so that a figure never claims more rows than were measured."""
    steps = [step for step in (BATCH, 10 * BATCH) if step <= most]
    if not steps or steps[-1] != most:
        steps.append(most)
    return [(step, f"{step // 10**6}m" if step % 10**6 == 0 else f"{step // 1_000}k") for step in steps]


def fund(network: Network, node: NodeUnderTest, keys: Sequence[SigningKey], bench: Bench) -> None:
    """Escrow and signed vouchers for all that was charged."""
    payer = network.chain.accounts[0]
    network.mint(payer, 2 * PRICE * bench.size + 1_000 * len(keys))
    network.send(network.token.approve(network.settlement.address, 1 << 255))
    with contextlib.closing(bench.database.connect()) as db:
        for key in keys:
            ((amount, count),) = db.execute(
                "SELECT amount, sequence FROM channels WHERE consumer = ?", (key.address,)
            ).fetchall()
            owed = int.from_bytes(amount, "big")
            network.send(network.settlement.fund(key.address, node.operator, owed))
            voucher = Voucher(key.address, node.operator, bench.version_id, owed, count)
            signature = key.sign(voucher_digest(network.domain, voucher))
            db.execute(
                "UPDATE channels SET count = ?, signature = ? WHERE consumer = ?",
                (count, signature, key.address),
            )


def close_batch(network: Network, node: NodeUnderTest, bench: Bench, size: int, name: str) -> list[Row]:
    """In a process of its own, while this one goes on appending to the same log."""
    command = [sys.executable, "-m", "scripts.benches.log_closing", network.chain.url]
    command += [str(network.deployments), str(node.folder), node.operator, str(size)]
    calm = [bench.append(free=True) * GROUP for _ in range(50)]
    busy: list[float] = []
    ended = threading.Event()

    def go_on() -> None:
        while not ended.is_set():
            busy.append(bench.append(free=True) * GROUP)
            time.sleep(0.02)

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1_800)
    finally:
        ended.set()
        writer.join()
    if done.returncode:
        raise RuntimeError(f"closing failed: {done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["receipts"] != size or found["skipped"]:
        raise RuntimeError(f"not a batch of {size} with every voucher paid: {found}")
    return [
        row(f"log_close_{name}_seconds", found["close_seconds"], "s"),
        row(f"log_close_{name}_write_seconds", found["write_seconds"], "s"),
        row(f"log_close_{name}_peak_mib", found["peak_mib"], "MiB", found["base_mib"]),
        row(f"log_publish_{name}_seconds", found["publish_seconds"], "s"),
        row(f"log_publish_{name}_mib", found["publish_bytes"] / (1 << 20), "MiB"),
        row(f"log_publish_{name}_peak_mib", found["publish_peak_mib"], "MiB", found["base_mib"]),
        row(f"log_post_{name}_gas", found["gas"], "gas"),
        row("log_append_while_closing_ms", most_of(busy) * 1e3, "ms", most_of(calm) * 1e3),
    ]


def most_of(seconds: Sequence[float]) -> float:
    """What 95 of 100 stay below."""
    return statistics.quantiles(seconds, n=20)[-1]


def row(name: str, value: float, unit: str, reference: float | None = None) -> Row:
    ratio = round(value / reference, 4) if reference else None
    shown = None if reference is None else round(reference, 3)
    return dict(zip(FIELDS, (name, round(value, 3), unit, shown, ratio), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=BATCH, help="receipts in the log at last")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < arguments.rows * 1_000:
        parser.error(f"{arguments.rows} receipts need about {arguments.rows * 1_000 >> 20} MiB in TMPDIR")
    found = run(rows=arguments.rows)
    for each in found:
        print(json.dumps(each))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
