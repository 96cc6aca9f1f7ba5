"""What a server needs of a core for signed, durable receipts if it calls these libraries; without a server.

For each request of a batch its voucher's signature is checked, its input and its output are committed, its
receipt is signed; the model runs once, the journal is written once. libsecp256k1, sha256, keccak, ONNX
Runtime and the journal are called as the node calls them, one after another, on one core. Nothing else is in
the time, but for the two calls of a socket. So it is an upper bound for every server that does that: where it
is below what is asked of the node, the machine is too slow for that, whatever the node does.

It leaves out HTTP, JSON, the event loop, every check but the signature's, the log's tables, more payers than
one and the copies of inputs into a batch. Capacity does not count what can wait beside other work: of writing
to the disk only the processor's time is in it. A server that needs fewer calls may beat it: one that checks
signatures or runs the model by another library, hashes by other instructions, or uses two cores. On a machine
that changes, its relation to raw, which is measured in turn with it, says more than either.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count, pairwise
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
from assay.commitments.identifiers import address_word, keccak
from assay.commitments.receipts import RECEIPT_TYPEHASH, digest_of_words, domain_separator, voucher_words
from assay.commitments.signing import SigningKey, is_signed_by
from assay.commitments.tensors import OIP_TO_ONNX, hash_commitments, tensor_header, tensor_root
from assay.node.receipts.journal import Journal
from assay.types import ZERO_ADDRESS, Domain, Hash32, Voucher

from scripts.benches.least import ENTRY_BYTES
from scripts.benches.load.cores import Cores, on_cores
from scripts.benches.load.drive import ROOT, responding
from scripts.benches.node_rows import Beside, Measured
from scripts.benches.workloads import Workload, measure_raw

PARTS: Final = ("recover", "commit_input", "model", "commit_output", "sign", "journal")
POOL: Final = 128
"""Requests that differ in input and voucher; they are asked again when all were."""
SIZES: Final = (16, 32, 64)
"""Requests of a batch, up to as many as connections are open; the fastest counts."""
IMAGE_SIZES: Final = (4, 8, 16)
TURNS: Final = 8
SECONDS: Final = 0.1
"""Of a turn: raw and each size have one after another, for the machine changes within a second."""
SOCKET_SECONDS: Final = 0.2
REST_SECONDS: Final = 0.0003
"""Before a request that comes alone: as long as its client needs for the one before."""
ANSWER_BYTES: Final = 900
"""As a node's have."""
CONNECTIONS: Final = 16
DOMAIN: Final = Domain(31337, ZERO_ADDRESS)
"""Of no contract: one digest takes as long as another."""
_ARRIVAL_SECONDS: Final = 0.002
"""After which requests are there; if one is not, receiving it waits, and takes a little more."""
_FLOAT: Final = OIP_TO_ONNX["FP32"]


@dataclass(frozen=True, slots=True)
class Request:
    """`raw`: its input's bytes."""

    raw: bytes = field(repr=False)
    amount: int
    count: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of each of `PARTS`; `waited`: how long of the last of them the processor had nothing to do."""

    parts: Sequence[float]
    waited: float


class Work:
    """Requests for a model's row, and what answering them takes. `price` 0: without vouchers. The journal
    gets receipts (and, of an exact version, the tensors that a dispute is answered from)."""

    def __init__(self, workload: Workload, price: int, journal: Journal) -> None:
        self.workload, self.price = workload, price
        self.key, payer = SigningKey.generate(), SigningKey.generate()
        self.node, self.consumer, self.version_id = self.key.address, payer.address, Hash32(bytes(32))
        self.prefix = b"\x19\x01" + domain_separator(DOMAIN)
        self.voucher_words = voucher_words(Voucher(self.consumer, self.node, self.version_id, 0, 0))
        parties = address_word(self.node) + address_word(self.consumer)
        self.receipt_words = RECEIPT_TYPEHASH + parties + self.version_id
        shape = (POOL, *workload.row.shape[1:])
        self.rows = np.random.default_rng(0).random(shape, dtype=np.float32)
        self.requests = [self._request(payer, i) for i in range(POOL)]
        self.input_head = tensor_header(_FLOAT, workload.row.shape)
        self.output_head = tensor_header(_FLOAT, workload.run(workload.row).shape)
        self._sequence = 0
        self._session, self._name = workload.session, workload.input_name
        self._keeps_tensors = workload.program is not None
        self.journal = journal

    def _request(self, payer: SigningKey, i: int) -> Request:
        amount, count = (i + 1) * self.price, i
        digest = digest_of_words(self.prefix, self.voucher_words, amount, count)
        return Request(self.rows[i].tobytes(), amount, count, payer.sign(digest))

    def answer(self, first: int, size: int) -> Spent:
        """Do all that requests `first` and the next ones of the pool need. Raises ValueError if a voucher is
        not signed by its consumer, FatalError if the journal cannot be written."""
        requests, rows = self.requests[first : first + size], self.rows[first : first + size]
        clock, marks = time.perf_counter, [time.perf_counter()]
        if self.price:
            self._check(requests)
        marks.append(clock())
        input_hashes = [_commit(self.input_head, one.raw) for one in requests]
        marks.append(clock())
        outputs = self._session.run(None, {self._name: rows})[0]
        marks.append(clock())
        answers = [outputs[i : i + 1].tobytes() for i in range(size)]
        output_hashes = [_commit(self.output_head, one) for one in answers]
        marks.append(clock())
        receipts = self._sign(input_hashes, output_hashes)
        marks.append(clock())
        worked = time.thread_time()
        if self._keeps_tensors:
            tensors = zip(receipts, requests, answers, strict=True)
            receipts = [receipt + one.raw + raw for receipt, one, raw in tensors]
        self.journal.forget(self.journal.append(b"".join(receipts)))
        worked = time.thread_time() - worked
        marks.append(clock())
        parts = [later - before for before, later in pairwise(marks)]
        return Spent(parts, max(0.0, parts[-1] - worked))

    def _check(self, requests: Sequence[Request]) -> None:
        for one in requests:
            digest = digest_of_words(self.prefix, self.voucher_words, one.amount, one.count)
            if not is_signed_by(digest, one.signature, self.consumer):
                raise ValueError(f"the voucher of {one.amount} is not signed by its consumer {self.consumer}")

    def _sign(self, input_hashes: Sequence[bytes], output_hashes: Sequence[bytes]) -> list[bytes]:
        """As the journal gets them: hashes, price, sequence and time as words, signature."""
        receipts, now = [], int(time.time())
        for input_hash, output_hash in zip(input_hashes, output_hashes, strict=True):
            self._sequence += 1
            numbers = (self.price << 512 | self._sequence << 256 | now).to_bytes(96, "big")
            content = input_hash + output_hash + numbers
            digest = keccak(self.prefix + keccak(self.receipt_words + content))
            receipts.append((content + self.key.sign(digest)).ljust(ENTRY_BYTES, b"\0"))
        return receipts


def _commit(head: bytes, raw: bytes) -> Hash32:
    return hash_commitments([sha256(head + tensor_root(raw)).digest()])


@contextlib.contextmanager
def opened(workload: Workload, price: int) -> Iterator[Work]:
    """Its journal is on the disk of this repository, as a node's receipts are in these benches. Meanwhile
    Python collects no garbage."""
    base = ROOT / ".cache" / "benches"
    base.mkdir(parents=True, exist_ok=True)
    collects = gc.isenabled()
    with tempfile.TemporaryDirectory(dir=base) as folder:
        journal = Journal(Path(folder))
        gc.disable()
        try:
            yield Work(workload, price, journal)
        finally:
            journal.close()
            if collects:
                gc.enable()


def measure_parts(work: Work, size: int, seconds: float) -> dict[str, float]:
    """Seconds of a request by `PARTS`, in batches of `size`; what waits for the disk is not counted."""
    work.answer(0, size)
    total, batches = np.zeros(len(PARTS)), 0
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        spent = work.answer(batches * size % POOL, size)
        total += spent.parts
        total[-1] -= spent.waited
        batches += 1
    return dict(zip(PARTS, (total / (batches * size)).tolist(), strict=True))


def measure_capacity(
    work: Work, sizes: Sequence[int], socket_seconds: float, turns: int = TURNS, seconds: float = SECONDS
) -> Beside:
    """Requests a second in batches of the best size."""
    raws: list[float] = []
    needs: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(turns):
        raws.append(1 / measure_raw(work.workload, seconds).rate)
        for size, found in needs.items():
            found.append(sum(measure_parts(work, size, seconds).values()))
    return Beside(1 / (min(map(fmean, needs.values())) + socket_seconds), 1 / fmean(raws))


def measure_alone(work: Work, turns: int = TURNS, seconds: float = SECONDS) -> tuple[Beside, Beside]:
    """The median milliseconds of a request that comes alone, after a rest, in which the wait for the disk
    counts, but no socket; and of `session.run` of one row after that rest. (A server has still more between
    two runs: the rest, and all else that a request needs.)"""
    workload, indices = work.workload, count()
    feeds = {workload.input_name: workload.row}

    def run() -> float:
        started = time.perf_counter()
        workload.session.run(None, feeds)
        return time.perf_counter() - started

    def answer() -> float:
        return sum(work.answer(next(indices) % POOL, 1).parts)

    times: list[tuple[float, float, float]] = []
    for _ in range(turns):
        raw = measure_raw(workload, seconds).p50
        times.append((_median(answer, seconds), _median(run, seconds), raw))
    alone, rested, raw = map(fmean, zip(*times, strict=True))
    return Beside(alone, raw), Beside(rested, raw)


def _median(one: Callable[[], float], seconds: float) -> float:
    """Milliseconds."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while not times or time.perf_counter() < deadline:
        time.sleep(REST_SECONDS)
        times.append(one())
    return float(np.median(times)) * 1e3


def measure_socket(request_bytes: int, cores: Cores, seconds: float) -> float:
    """The processor's seconds of receiving a whole request that is there already, and of sending an answer,
    over loopback TCP; the other end is on the generator's core."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(responding(ANSWER_BYTES, request_bytes, cores.client))
        stack.enter_context(on_cores(cores.server))
        address = ("127.0.0.1", port)
        ends = [stack.enter_context(socket.create_connection(address)) for _ in range(CONNECTIONS)]
        answer, worked, rounds = bytes(ANSWER_BYTES), 0.0, -1
        deadline = time.perf_counter() + seconds
        while rounds < 1 or time.perf_counter() < deadline:
            started = time.thread_time()
            for end in ends:
                end.send(answer)
            sent = time.thread_time()
            time.sleep(_ARRIVAL_SECONDS)
            arrived = time.thread_time()
            sizes = [len(end.recv(request_bytes, socket.MSG_WAITALL)) for end in ends]
            if rounds >= 0:  # the first is a warm-up
                worked += time.thread_time() - arrived + sent - started
            rounds += 1
            if set(sizes) != {request_bytes}:
                raise RuntimeError(f"the other end sent {sizes} instead of {request_bytes} bytes each")
    return worked / (rounds * CONNECTIONS)


def measure_mlp(network: Workload, price: int, sizes: tuple[int, int], cores: Cores, found: Measured) -> None:
    """`sizes`: bytes of a request, unpaid and paid."""
    for name, asked, size in zip(("mlp_signed", "mlp_paid"), (0, price), sizes, strict=True):
        _measure(name, network, asked, SIZES, size, cores, found)
    with opened(network, price) as work, on_cores(cores.server):
        alone, rested = measure_alone(work)
    found.add_required("mlp_alone", alone)
    found.add_required("mlp_rested", rested)


def measure_cnn(image: Workload, price: int, size: int, cores: Cores, found: Measured) -> None:
    """`size`: bytes of a request."""
    _measure("cnn_paid", image, price, IMAGE_SIZES, size, cores, found)


def _measure(
    name: str,
    workload: Workload,
    price: int,
    sizes: Sequence[int],
    size: int,
    cores: Cores,
    found: Measured,
) -> None:
    taken = measure_socket(size, cores, SOCKET_SECONDS)
    with opened(workload, price) as work, on_cores(cores.server):
        found.add_required(name, measure_capacity(work, sizes, taken))
