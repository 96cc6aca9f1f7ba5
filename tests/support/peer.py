"""A peer that speaks a node's side of SPEC.md §7 in a few lines, to be honest or to lie to the client under
test.

It runs no model (its output is twice its input) and follows no chain: what it is for is to answer precisely,
slowly, twice or wrongly on demand, which a real node does not.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np
from assay.client.wire import LENGTH_HEADER, decode_response
from assay.commitments.receipts import receipt_digest, receipt_to_json, voucher_digest
from assay.commitments.signing import SigningKey, recover
from assay.commitments.tensors import commit_tensors
from assay.types import Address, Domain, Hash32, Receipt, SignedReceipt, TensorSpec, Voucher

INPUT = TensorSpec("x", "FP32", (-1, 2))
OUTPUT = TensorSpec("y", "FP32", (-1, 2))
METADATA = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}


@dataclass
class PeerChannel:
    amount: int = 0
    count: int = 0
    signature: str | None = None
    charged: int = 0
    receipts: list[tuple[tuple[int, int], SignedReceipt]] = field(default_factory=list)


@dataclass
class Peer:
    """Answers `(status, body, JSON length)`.

    `bend` may change the receipt before it is signed, `corrupt` the reply.
    """

    domain: Domain
    node: Address
    signer: SigningKey
    version_id: Hash32
    price: int
    now: Callable[[], int]
    bend: Callable[[Receipt], Receipt] = lambda receipt: receipt
    corrupt: Callable[[bytes], bytes] = lambda output: output
    channels: dict[str, PeerChannel] = field(default_factory=dict)
    vouchers_seen: list[Voucher] = field(default_factory=list)

    def infer(self, body: bytes, json_length: int) -> tuple[int, bytes, int | None]:
        header = json.loads(body[:json_length])
        given = header["parameters"]
        x = np.frombuffer(body[json_length:], "<f4").reshape(header["inputs"][0]["shape"])
        consumer = Address(given["voucher_consumer"])
        voucher = Voucher(
            consumer, self.node, self.version_id, int(given["voucher_amount"]), int(given["voucher_count"])
        )
        signature = bytes.fromhex(given["voucher_signature"][2:])
        assert recover(voucher_digest(self.domain, voucher), signature) == consumer
        self.vouchers_seen.append(voucher)
        channel = self.channels.setdefault(consumer, PeerChannel())
        key = (voucher.amount, voucher.count)
        input_hash = commit_tensors([x])
        for paid_by, signed in channel.receipts:
            if paid_by == key:
                if signed.receipt.input_hash != input_hash:
                    return _error(402, "voucher_stale")
                return self._reply(signed, x)
        if voucher.count > len(channel.receipts) or voucher.count < channel.count:
            return _error(402, "voucher_stale")
        if max(voucher.amount, channel.amount) < channel.charged + self.price:
            return _error(402, "voucher_stale" if voucher.amount <= channel.amount else "voucher_short")
        if voucher.amount >= channel.amount:
            channel.amount, channel.count = voucher.amount, voucher.count
            channel.signature = "0x" + signature.hex()
        channel.charged += self.price
        receipt = self.bend(
            Receipt(
                self.node, consumer, self.version_id, input_hash, commit_tensors([2 * x]), self.price,
                len(channel.receipts) + 1, self.now(),
            )
        )  # fmt: skip
        signed = SignedReceipt(receipt, self.signer.sign(receipt_digest(self.domain, receipt)))
        channel.receipts.append((key, signed))
        return self._reply(signed, x)

    def _reply(self, signed: SignedReceipt, x: Any) -> tuple[int, bytes, int | None]:
        raw = self.corrupt((2 * x).astype("<f4").tobytes())
        header = {
            "model_name": "m",
            "outputs": [
                {
                    "name": "y",
                    "datatype": "FP32",
                    "shape": list(x.shape),
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "parameters": {"receipt": json.dumps(receipt_to_json(self.domain, signed))},
        }
        head = json.dumps(header).encode()
        decode_response(head + raw, len(head))
        return 200, head + raw, len(head)

    def channel(self, consumer: str) -> dict[str, Any]:
        channel = self.channels.get(consumer, PeerChannel())
        return {
            "amount": str(channel.amount),
            "count": channel.count,
            "sequence": len(channel.receipts),
            "owed": str(channel.amount),
            "settled": "0",
            "signature": channel.signature,
        }

    def acknowledge(self, voucher: Voucher, signature: bytes) -> tuple[int, bytes, int | None]:
        assert recover(voucher_digest(self.domain, voucher), signature) == voucher.consumer
        self.vouchers_seen.append(voucher)
        channel = self.channels.setdefault(voucher.consumer, PeerChannel())
        if (
            voucher.amount < channel.amount
            or voucher.count < channel.count
            or voucher.count > len(channel.receipts)
        ):
            return _error(402, "voucher_stale")
        channel.amount, channel.count = voucher.amount, voucher.count
        channel.signature = "0x" + signature.hex()
        return 200, b'{"accepted": {}}', None


def _error(status: int, code: str) -> tuple[int, bytes, int | None]:
    return status, json.dumps({"error": f"the peer says {code}", "code": code}).encode(), None


def sign_again(signed: SignedReceipt, domain: Domain, key: SigningKey, **changes: Any) -> SignedReceipt:
    """The receipt with fields changed, signed by `key`."""
    receipt = replace(signed.receipt, **changes)
    return SignedReceipt(receipt, key.sign(receipt_digest(domain, receipt)))


class PeerServer:
    """Serves a `Peer` on a free loopback port; `intercept(path)` may answer instead of it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.intercept: Callable[[str], tuple[int, bytes, int | None] | None] = lambda path: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._get(self)

            def do_POST(self) -> None:
                outer._post(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        if (answer := self.intercept(path)) is None:
            if path.startswith("/v1/channels/"):
                answer = 200, json.dumps(self.peer.channel(path.rsplit("/", 1)[1])).encode(), None
            elif path.startswith("/v2/models/"):
                answer = 200, json.dumps(METADATA).encode(), None
            else:
                answer = 200, b"{}", None
        _send(request, answer)

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if (answer := self.intercept(request.path)) is None:
            if request.path == "/v1/vouchers":
                data = json.loads(body)
                voucher = Voucher(
                    Address(data["consumer"]), self.peer.node, self.peer.version_id,
                    int(data["amount"]), int(data["count"]),
                )  # fmt: skip
                answer = self.peer.acknowledge(voucher, bytes.fromhex(data["signature"][2:]))
            else:
                answer = self.peer.infer(body, int(request.headers[LENGTH_HEADER]))
        _send(request, answer)


def _send(request: BaseHTTPRequestHandler, answer: tuple[int, bytes, int | None]) -> None:
    status, content, json_length = answer
    request.send_response(status)
    if json_length is not None:
        request.send_header(LENGTH_HEADER, str(json_length))
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)
