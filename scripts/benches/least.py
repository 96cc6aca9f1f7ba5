"""The least that a server in Python can do for a signed answer: `python -m scripts.benches.least SPEC`.

It understands one form of request, believes all of it but a voucher's signature, and serves one model to
whoever asks: no checks of inputs, escrow or amounts, no log but a synced journal, no fairness, no limits,
nothing counted. What it has in common with the node, it does by the node's own functions. So it is a
yardstick for a node in Python: not a proof, for somebody may write a leaner one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import uvloop
from assay.commitments.identifiers import address_word, keccak
from assay.commitments.receipts import RECEIPT_TYPEHASH, digest_of_words, domain_separator, voucher_words
from assay.commitments.signing import SigningKey, is_signed_by
from assay.commitments.tensors import OIP_TO_ONNX, hash_commitments, tensor_header, tensor_root
from assay.node.payments import voucher_slip
from assay.node.receipts.journal import Journal
from assay.types import ZERO_ADDRESS, Address, Domain, Hash32, Voucher
from numpy.typing import NDArray

from scripts.benches.load.cores import on_cores
from scripts.benches.stage import ROOT
from scripts.benches.workloads import Workload

Array = NDArray[Any]
FLOAT = OIP_TO_ONNX["FP32"]
ROWS = 32
"""Of a batch, at most; what waits is batched."""
ENTRY_BYTES = 420
"""Of a paid receipt in the node's journal."""
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"
    b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
)


@dataclass(frozen=True)
class Least:
    """What it serves, for how much, and as whom."""

    workload: Workload
    price: int
    domain: Domain
    node: Address
    version_id: Hash32
    signer: bytes = field(repr=False)


class Model:
    """Batches what waits."""

    def __init__(self, spec: Least, journal: Journal) -> None:
        self.spec = spec
        self.loop = asyncio.get_running_loop()
        self.prefix = b"\x19\x01" + domain_separator(spec.domain)
        self.words: dict[Address, bytes] = {}
        row, output = spec.workload.row, spec.workload.run(spec.workload.row)
        self.input_head, self.output_head = (
            tensor_header(FLOAT, row.shape),
            tensor_header(FLOAT, output.shape),
        )
        self._journal = journal
        self._key = SigningKey(spec.signer)
        self._waiting: list[tuple[asyncio.Transport, Array, bytes, Address]] = []
        self._sequences: defaultdict[Address, int] = defaultdict(int)
        tensor = {
            "name": "y",
            "datatype": "FP32",
            "shape": list(output.shape),
            "parameters": {"binary_data_size": output.nbytes},
        }
        document = {"model_name": "least", "model_version": "1", "outputs": [tensor]}
        self._head = orjson.dumps(document)[:-1] + b',"parameters":{"receipt":'

    def put(self, transport: asyncio.Transport, row: Array, input_hash: bytes, payer: Address) -> None:
        if not self._waiting:
            self.loop.call_soon(self._run)
        self._waiting.append((transport, row, input_hash, payer))

    def _run(self) -> None:
        batch, self._waiting = self._waiting[:ROWS], self._waiting[ROWS:]
        if self._waiting:
            self.loop.call_soon(self._run)
        outputs = self.spec.workload.run(np.concatenate([one[1] for one in batch]))
        answers = []
        for i, (transport, _, input_hash, payer) in enumerate(batch):
            raw = outputs[i : i + 1].tobytes()
            answers.append((transport, self._sign(raw, input_hash, payer), raw))
        self._journal.forget(self._journal.append(bytes(ENTRY_BYTES * len(batch))))
        for transport, text, raw in answers:
            head = self._head + orjson.dumps(text) + b"}}"
            transport.write(_ANSWER % (len(head), len(head) + len(raw)) + head + raw)

    def _sign(self, raw: bytes, input_hash: bytes, payer: Address) -> str:
        """The receipt as JSON."""
        spec, now = self.spec, int(time.time())
        words = self.words.get(payer)
        if words is None:
            words = RECEIPT_TYPEHASH + address_word(spec.node) + address_word(payer) + spec.version_id
            self.words[payer] = words
        self._sequences[payer] = sequence = self._sequences[payer] + 1
        output_hash = hash_commitments([sha256(self.output_head + tensor_root(raw)).digest()])
        numbers = (spec.price << 512 | sequence << 256 | now).to_bytes(96, "big")
        digest = keccak(self.prefix + keccak(words + input_hash + output_hash + numbers))
        return (
            f'{{"node":"{spec.node}","consumer":"{payer}","version_id":"0x{spec.version_id.hex()}",'
            f'"input_hash":"0x{input_hash.hex()}","output_hash":"0x{output_hash.hex()}","price":"{spec.price}",'
            f'"sequence":{sequence},"executed_at":{now},"signature":"0x{self._key.sign(digest).hex()}",'
            f'"digest":"0x{digest.hex()}"}}'
        )


class Connection(asyncio.Protocol):
    def __init__(self, model: Model) -> None:
        self._model = model
        self._data = b""
        self._words = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data if self._data else data
        end = data.find(b"\r\n\r\n") + 4
        json_length, length = (
            _number(data, b"-header-content-length: "),
            _number(data, b"\r\ncontent-length: "),
        )
        if end < 4 or len(data) < end + length:
            return
        self._data = b""
        model, row = self._model, self._model.spec.workload.row
        payer = self._payer(data[end : end + json_length]) if model.spec.price else ZERO_ADDRESS
        raw = data[end + json_length :]
        input_hash = hash_commitments([sha256(model.input_head + tensor_root(raw)).digest()])
        model.put(self._transport, np.frombuffer(raw, row.dtype).reshape(row.shape), input_hash, payer)

    def _payer(self, head: bytes) -> Address:
        """Raises ValueError unless the voucher is signed by its consumer."""
        spec, found = self._model.spec, voucher_slip.cut(head)
        if found is None:
            raise ValueError("no voucher")
        slip, at = found[1], head.find(b'"voucher_consumer":"') + 20
        payer = Address(head[at : at + 42].decode())
        if not self._words:
            self._words = voucher_words(Voucher(payer, spec.node, spec.version_id, 0, 0))
        digest = digest_of_words(self._model.prefix, self._words, slip.amount, slip.count)
        if not is_signed_by(digest, slip.signature, payer):
            raise ValueError("not signed by the consumer")
        return payer


def _number(data: bytes, name: bytes) -> int:
    at = data.find(name) + len(name)
    return int(data[at : data.find(b"\r", at)])


async def _serve(spec: Least, folder: Path) -> None:
    model = Model(spec, Journal(folder))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(model), "127.0.0.1", 0)
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def started(spec: Least, cores: Sequence[int]) -> Iterator[int]:
    """Its port. Its journal is on the disk of this repository, as a node's receipts are in these benches."""
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache" / "benches") as folder:
        path = Path(folder, "spec")
        path.write_bytes(pickle.dumps(spec))
        with on_cores(cores):
            command = [sys.executable, "-m", "scripts.benches.least", str(path)]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    PATH = Path(sys.argv[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pickle.loads(PATH.read_bytes()), PATH.parent))
