"""Random crashes, time-outs and late deliveries: a consumer never owes a node more than one price beyond its
receipts.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from assay.client.channels import ChannelState, Held
from assay.client.errors import ChannelBlocked, NodeRefused, NodeUnreachable
from assay.client.requests import Target, Work
from assay.client.session import Session
from assay.client.store import ChannelKey, Store
from assay.client.transport import HeldVoucher, Reply
from assay.commitments.parsing import parse_signature
from assay.commitments.signing import SigningKey
from assay.commitments.tensors import commit_tensors
from assay.types import Address, Domain, Hash32, SignedVoucher
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.peer import INPUT, OUTPUT, Peer

DOMAIN = Domain(31337, Address("0x" + "11" * 20))
VERSION = Hash32(b"\x07" * 32)
CONSUMER = SigningKey(b"\x01" * 32)
SIGNER = SigningKey(b"\x02" * 32)
NODES = [SigningKey(bytes([seed]) * 32).address for seed in (3, 4)]
NOW = 1_800_000_000


class Crash(BaseException):
    """The process dies here."""


class Wire:
    """A network that loses requests or answers, delivers late, and can kill the client on either side of a
    send.
    """

    def __init__(self, peers: dict[str, Peer]) -> None:
        self.peers = peers
        self.faults: list[str] = []
        self.late: list[tuple[str, bytes, int]] = []
        self.down: set[str] = set()

    def infer(self, endpoint: str, path: str, body: bytes, json_length: int) -> Reply:
        if endpoint in self.down:
            raise NodeUnreachable(f"{endpoint} refuses connections", sent=False)
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "crash_before_send":
            raise Crash
        if fault == "request_lost":
            raise NodeUnreachable("the request was lost", sent=True)
        if fault == "late":
            self.late.append((endpoint, body, json_length))
            raise NodeUnreachable("timed out", sent=True)
        if fault == "busy":
            return Reply(503, b'{"error": "busy", "code": "busy"}', None)
        status, content, length = self.peers[endpoint].infer(body, json_length)
        if fault == "answer_lost":
            raise NodeUnreachable("the answer was lost", sent=True)
        if fault == "crash_after_send":
            raise Crash
        return Reply(status, content, length)

    def channel(self, endpoint: str, version_id: Hash32, consumer: Address) -> HeldVoucher:
        if endpoint in self.down:
            raise NodeUnreachable(f"{endpoint} refuses connections", sent=False)
        data = self.peers[endpoint].channel(consumer)
        held = Held(int(data["amount"]), data["count"], data["sequence"])
        signature = data["signature"]
        return HeldVoucher(held, None if signature is None else parse_signature(signature))

    def acknowledge(self, endpoint: str, signed: SignedVoucher) -> None:
        if endpoint in self.down:
            raise NodeUnreachable(f"{endpoint} refuses connections", sent=False)
        status, content, _ = self.peers[endpoint].acknowledge(signed.voucher, signed.signature)
        if status != 200:
            raise Reply(status, content, None).error(endpoint)


FAULTS = st.sampled_from(
    ["none", "none", "crash_before_send", "crash_after_send", "request_lost", "answer_lost", "late", "busy"]
)


class Consumer(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.price = 10
        self.peers = {
            f"http://{node}": Peer(DOMAIN, node, SIGNER, VERSION, self.price, lambda: NOW) for node in NODES
        }
        self.wire = Wire(self.peers)
        self.dearest = self.price
        self.open()

    def open(self) -> None:
        """A new process on the same folder."""
        self.store = Store(Path(self.folder.name))
        wire: Any = self.wire
        self.session = Session(
            DOMAIN, CONSUMER, self.store, wire, lambda node, signer, at: signer == SIGNER.address,
            lambda state, price: None, clock=lambda: NOW, sleep=lambda seconds: None,
        )  # fmt: skip

    def restart(self) -> None:
        self.store.close()
        self.open()

    @rule(which=st.integers(0, 1), value=st.integers(0, 3), faults=st.lists(FAULTS, max_size=4))
    def infer(self, which: int, value: int, faults: list[str]) -> None:
        node = NODES[which]
        x = np.full((1, 2), value, np.float32)
        work = Work((INPUT,), (OUTPUT,), {"x": x}, commit_tensors([x]), "id")
        self.wire.faults = list(faults)
        try:
            answer = self.session.infer(Target(node, f"http://{node}", VERSION, "p/m", 1, self.price), work)
        except Crash:
            self.restart()
        except (NodeUnreachable, NodeRefused):
            pass
        else:
            assert np.array_equal(answer.outputs["y"], 2 * x)
            assert answer.receipt.receipt.node == node

    @rule()
    def deliver_late(self) -> None:
        if self.wire.late:
            endpoint, body, length = self.wire.late.pop(0)
            self.peers[endpoint].infer(body, length)

    @rule(which=st.integers(0, 1))
    def toggle(self, which: int) -> None:
        self.wire.down ^= {f"http://{NODES[which]}"}

    @rule(price=st.integers(8, 13))
    def change_price(self, price: int) -> None:
        self.price = price
        self.dearest = max(self.dearest, price)

    @rule()
    def notice_price(self) -> None:
        """Nodes follow the chain a little later than the consumer does."""
        for peer in self.peers.values():
            peer.price = self.price

    @rule(faults=st.lists(FAULTS, max_size=2))
    def acknowledge(self, faults: list[str]) -> None:
        self.wire.faults = list(faults)
        try:
            self.session.acknowledge()
        except Crash:
            self.restart()

    @rule()
    def crash(self) -> None:
        self.restart()

    def state(self, node: Address) -> ChannelState:
        key = ChannelKey(DOMAIN, CONSUMER.address, node, VERSION)
        return self.store.load(key) or ChannelState(CONSUMER.address, node, VERSION)

    @invariant()
    def at_most_one_price_beyond_the_receipts(self) -> None:
        for peer in self.peers.values():
            promised = max((voucher.amount for voucher in peer.vouchers_seen), default=0)
            channel = peer.channels.get(CONSUMER.address)
            earned = channel.charged if channel else 0
            assert promised - earned <= self.dearest
            state = self.state(peer.node)
            assert state.outstanding <= self.dearest
            assert promised <= state.signed

    @invariant()
    def counts_only_accepted_receipts(self) -> None:
        for peer in self.peers.values():
            state = self.state(peer.node)
            channel = peer.channels.get(CONSUMER.address)
            assert state.count <= (len(channel.receipts) if channel else 0)
            assert all(voucher.count <= state.count for voucher in peer.vouchers_seen)
            assert not state.blocked

    @invariant()
    def keeps_every_accepted_receipt_once(self) -> None:
        counts = sum(self.state(node).count for node in NODES)
        assert len(self.store.receipts()) == counts

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.settle()
        finally:
            self.store.close()
            self.folder.cleanup()

    def settle(self) -> None:
        """When everything is up again, one more request to each node leaves nothing lost, owed or
        uncounted.
        """
        self.wire.down.clear()
        self.wire.faults = []
        self.notice_price()
        while self.wire.late:
            self.deliver_late()
        for which in (0, 1):
            for _ in range(2):
                self.infer(which, 9, [])
        assert self.session.acknowledge() == []
        for peer in self.peers.values():
            channel, state = peer.channels[CONSUMER.address], self.state(peer.node)
            assert state.count == len(channel.receipts) == channel.count
            assert state.charged == channel.charged


TestConsumer = Consumer.TestCase
TestConsumer.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_infer__node_says_it_forgot__is_blocked(tmp_path: Path) -> None:
    node = NODES[0]
    peer = Peer(DOMAIN, node, SIGNER, VERSION, 10, lambda: NOW)
    wire: Any = Wire({f"http://{node}": peer})
    store = Store(tmp_path)
    session = Session(
        DOMAIN,
        CONSUMER,
        store,
        wire,
        lambda *_: True,
        lambda *_: None,
        clock=lambda: NOW,
        sleep=lambda _: None,
    )
    x = np.ones((1, 2), np.float32)
    work = Work((INPUT,), (OUTPUT,), {"x": x}, commit_tensors([x]), "id")
    target = Target(node, f"http://{node}", VERSION, "p/m", 1, 10)
    session.infer(target, work)
    peer.channels.clear()
    try:
        session.infer(target, work)
    except ChannelBlocked as error:
        assert "lost its log" in str(error)
    else:
        raise AssertionError("a node that forgets receipts was paid again")
    finally:
        store.close()
