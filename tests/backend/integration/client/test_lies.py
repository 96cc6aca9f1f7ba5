"""Receipts that do not check are refused, kept as evidence, and cost one price at most."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from assay.client import ChannelBlocked, Client, InputInvalid, ReceiptRefused
from assay.commitments.signing import SigningKey
from assay.errors import RequestError
from assay.types import Address, Receipt

from tests.support.onnx_models import linear_model, manifest_of
from tests.support.peer import INPUT, OUTPUT, Peer, PeerServer
from tests.support.stack import PRICE, Stack

X = np.array([[1.5, -2.0]], np.float32)


@dataclass
class Liar:
    server: PeerServer
    model: str
    honest: Peer

    @property
    def peer(self) -> Peer:
        return self.server.peer


@pytest.fixture(scope="module")
def liar_at(stack: Stack) -> Iterator[Liar]:
    """A registered, staked node that offers a version alone; its server is ours."""
    model, version_id = stack.publish("liar", linear_model(2, 2), manifest_of([INPUT], [OUTPUT]))
    operator, signer = Address(stack.chain.accounts[8]), SigningKey.generate()
    peer = Peer(
        stack.deployment.domain,
        operator,
        signer,
        version_id,
        PRICE,
        lambda: max(int(time.time()), stack.chain.timestamp()),
    )
    with PeerServer(peer) as server:
        stack.register(operator, signer.address, server.url, PRICE, version_id)
        yield Liar(server, model, peer)


@pytest.fixture
def liar(liar_at: Liar) -> Iterator[Liar]:
    """The same node, honest until told otherwise."""
    liar_at.server.peer = replace(liar_at.honest, channels={}, vouchers_seen=[])
    liar_at.server.intercept = lambda path: None
    yield liar_at


def change(**changes: Any) -> Callable[[Receipt], Receipt]:
    return lambda receipt: replace(receipt, **changes)


LIES: dict[str, dict[str, Any]] = {
    "output_hash": {"corrupt": lambda raw: bytes([raw[0] ^ 1]) + raw[1:]},
    "input_hash": {"bend": change(input_hash=b"\x01" * 32)},
    "signer": {"signer": SigningKey(b"\x09" * 32)},
    "executed_at": {"bend": lambda receipt: replace(receipt, executed_at=receipt.executed_at - 3600)},
    "sequence": {"bend": lambda receipt: replace(receipt, sequence=receipt.sequence + 1)},
    "price": {"bend": change(price=PRICE + 1)},
    "consumer": {"bend": change(consumer=Address("0x" + "00" * 20))},
    "version": {"bend": change(version_id=b"\x02" * 32)},
}


@pytest.mark.parametrize("step", list(LIES))
def test_infer__node_lies__refused_with_evidence_and_blocked(
    liar: Liar, open_client: Callable[..., Client], step: str
) -> None:
    client = open_client()
    for name, value in LIES[step].items():
        setattr(liar.peer, name, value)

    with pytest.raises(ReceiptRefused) as caught:
        client.infer(liar.model, X)
    assert caught.value.step == step
    assert caught.value.evidence is not None
    evidence = json.loads(caught.value.evidence.read_text())
    assert evidence["step"] == step
    assert "receipt" in evidence["reply_header"]["parameters"]

    with pytest.raises(ChannelBlocked):
        client.infer(liar.model, X)
    assert client.acknowledge() == []
    assert [(voucher.amount, voucher.count) for voucher in liar.peer.vouchers_seen] == [(PRICE, 0)]


def test_forgive__blocked_channel__goes_on_one_price_poorer(
    liar: Liar, open_client: Callable[..., Client]
) -> None:
    client = open_client()
    liar.peer.corrupt = lambda raw: bytes(len(raw))
    with pytest.raises(ReceiptRefused):
        client.infer(liar.model, X)
    liar.peer.corrupt = lambda raw: raw
    assert client.forgive(liar.peer.node, liar.model) == PRICE
    result = client.infer(liar.model, X)
    assert np.array_equal(result.outputs["y"], 2 * X)
    assert result.receipt.receipt.sequence == 2
    assert [(voucher.amount, voucher.count) for voucher in liar.peer.vouchers_seen] == [
        (PRICE, 0),
        (2 * PRICE, 0),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"", None),
        (200, b"{}", None),
        (200, b'{"outputs": []}', 15),
        (200, b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [9], "data": [1]}]}', None),
        (200, b"\xff" * 100, 7),
        (200, b'{"outputs": [], "parameters": {"receipt": "' + b"[" * 100_000 + b'"}}', None),
        (200, b'{"outputs": [' + b"[]," * 3_000_000 + b"[]]}", None),
    ],
)
def test_infer__reply_is_garbage__refused_with_evidence(
    liar: Liar, open_client: Callable[..., Client], reply: tuple[int, bytes, int | None]
) -> None:
    client = open_client()
    liar.server.intercept = lambda path: reply if path.endswith("/infer") else None
    with pytest.raises(ReceiptRefused) as caught:
        client.infer(liar.model, X)
    assert caught.value.evidence is not None


def test_infer__node_claims_a_voucher_that_was_never_signed__blocked(
    liar: Liar, open_client: Callable[..., Client]
) -> None:
    client = open_client()
    claim = {
        "amount": str(50 * PRICE),
        "count": 9,
        "sequence": 50,
        "owed": "0",
        "settled": "0",
        "signature": None,
    }
    liar.server.intercept = lambda path: (
        (200, json.dumps(claim).encode(), None) if path.startswith("/v1/channels/") else None
    )
    with pytest.raises(ChannelBlocked, match="no signature of yours"):
        client.infer(liar.model, X)
    assert liar.peer.vouchers_seen == []


def test_forgive__node_claims_a_voucher_that_was_never_signed__writes_nothing_off(
    liar: Liar, open_client: Callable[..., Client]
) -> None:
    client = open_client()
    liar.peer.corrupt = lambda raw: bytes(len(raw))
    with pytest.raises(ReceiptRefused):
        client.infer(liar.model, X)
    claim = {"amount": str(50 * PRICE), "count": 0, "sequence": 1, "signature": None}
    liar.server.intercept = lambda path: (
        (200, json.dumps(claim).encode(), None) if path.startswith("/v1/channels/") else None
    )
    with pytest.raises(RequestError, match="nothing is written off"):
        client.forgive(liar.peer.node, liar.model)


def test_infer__node_answers_with_a_redirect__not_followed(
    liar: Liar, open_client: Callable[..., Client]
) -> None:
    client = open_client()
    liar.server.intercept = lambda path: (302, b"", None) if path.endswith("/infer") else None
    with pytest.raises(Exception, match="302"):
        client.infer(liar.model, X)


@pytest.fixture(scope="module")
def rival_at(stack: Stack, liar_at: Liar) -> Iterator[Peer]:
    """An honest, dearer node that offers the same version."""
    operator, signer = Address(stack.chain.accounts[7]), SigningKey.generate()
    peer = replace(
        liar_at.honest, node=operator, signer=signer, price=2 * PRICE, channels={}, vouchers_seen=[]
    )
    with PeerServer(peer) as server:
        stack.register(operator, signer.address, server.url, 2 * PRICE, peer.version_id)
        yield peer


@pytest.mark.parametrize("status", [400, 413])
def test_infer__node_calls_the_input_wrong__another_is_asked(
    liar: Liar, rival_at: Peer, open_client: Callable[..., Client], status: int
) -> None:
    """Limits differ, and a node that answers nobody so would keep everybody from the others."""
    client = open_client()
    refusal = b'{"error": "no", "code": "too_large", "cure": "send less"}'
    liar.server.intercept = lambda path: (status, refusal, None) if path.endswith("/infer") else None
    assert client.infer(liar.model, X).node == rival_at.node
    with pytest.raises(InputInvalid, match="no") as caught:
        client.infer(liar.model, X, max_price=PRICE)
    assert caught.value.cure == "send less"


@pytest.mark.parametrize("endpoint", ["http://[", "http://a..b", "\x1b[2J"])
def test_infer__node_with_an_endpoint_that_is_no_url__another_is_asked(
    stack: Stack, liar: Liar, rival_at: Peer, open_client: Callable[..., Client], endpoint: str
) -> None:
    stack.send(liar.peer.node, stack.registry.set_endpoint(endpoint))
    try:
        assert open_client().infer(liar.model, X).node == rival_at.node
    finally:
        stack.send(liar.peer.node, stack.registry.set_endpoint(liar.server.url))


def test_infer__node_says_that_its_model_takes_something_else__another_is_asked(
    liar: Liar, rival_at: Peer, open_client: Callable[..., Client]
) -> None:
    client = open_client()
    client.manifests.fetch = lambda version: None  # type: ignore[method-assign]
    spec = {"name": "z", "datatype": "INT8", "shape": [1]}
    metadata = json.dumps({"inputs": [spec], "outputs": [spec]}).encode()
    liar.server.intercept = lambda path: (200, metadata, None) if path.startswith("/v2/models/") else None
    assert client.infer(liar.model, X).node == rival_at.node
