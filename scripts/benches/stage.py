"""A chain, a node process on its core, funded payers, and the loads on that node."""

from __future__ import annotations

import contextlib
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from assay.commitments.receipts import receipt_digest, receipt_from_json
from assay.commitments.signing import SigningKey, verify_signer
from assay.commitments.tensors import commit_tensors
from assay.node.config import SettlementConfig
from assay.types import Address
from numpy.typing import NDArray

from scripts.benches.load.cores import Cores, on_cores
from scripts.benches.load.drive import drive
from scripts.benches.load.plan import Load, Payer, Payment, Plan
from scripts.benches.load.wire import InferRequest
from scripts.benches.workloads import Workload
from tests.support.nodes import Network, NodeUnderTest, Published, local_network

ROOT = Path(__file__).resolve().parents[2]
PRICE = 5
FUNDS = 10**12
"""Of each payer; more than any load spends."""
BOND, SLASH = 10, 400
STAKE = 10**9
GAS = 300_000
FUNDING_SECONDS = 120.0
"""For all of them to be mined."""
MORE = 1.25
"""Vouchers signed for each that is expected to be spent; and SPARE more for whom a connection is kept."""
SPARE = 50
WARMUP = 0.3
"""Seconds."""


@dataclass
class Offer:
    """A workload at a price, under one published version. `spent`: vouchers used, by payer."""

    workload: Workload
    published: Published
    price: int
    spent: Counter[int] = field(default_factory=Counter)

    def spend(self, sent: Sequence[int], payers: int) -> None:
        """`sent` by each connection; payers without a connection of their own took turns."""
        if len(sent) != payers:
            each, more = divmod(sum(sent), payers)
            sent = [each + (i < more) for i in range(payers)]
        self.spent.update(dict(enumerate(sent)))

    @property
    def infer(self) -> InferRequest:
        return InferRequest.of(self.published.path, self.workload.input_name, self.workload.row)


@dataclass(frozen=True)
class Other:
    """A server that answers as the node does, by a signer of its own."""

    port: int
    signer: Address


@dataclass
class Stage:
    network: Network
    node: NodeUnderTest
    cores: Cores
    payers: list[bytes] = field(default_factory=list)
    """Their secrets; keys for this run alone."""

    def offer(self, workload: Workload, name: str, price: int) -> Offer:
        published = workload.publish(self.network, name)
        self.node.offer(published, price)
        return Offer(workload, published, price)

    def add_payers(self, count: int) -> None:
        """Until there are so many, each with FUNDS in escrow at the node."""
        fresh = [secrets.token_bytes(32) for _ in range(count - len(self.payers))]
        if not fresh:
            return
        network, sender = self.network, self.network.chain.accounts[0]
        network.mint(sender, FUNDS * len(fresh))
        network.send(network.token.approve(network.settlement.address, FUNDS * len(fresh)))
        sent = []
        for secret in fresh:
            call = network.settlement.fund(SigningKey(secret).address, self.node.operator, FUNDS)
            transaction = {"from": sender, "to": call.to, "data": "0x" + call.data.hex(), "gas": hex(GAS)}
            sent.append(network.client.request("eth_sendTransaction", [transaction]))
        deadline = time.monotonic() + FUNDING_SECONDS
        for each in sent:
            while not (receipt := network.client.request("eth_getTransactionReceipt", [each])):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"funding transaction {each} was not mined in {FUNDING_SECONDS:g} s")
                time.sleep(0.05)
            if receipt["status"] != "0x1":
                raise RuntimeError(f"funding transaction {each} did not succeed")
        self.payers += fresh

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """The node runs, on the server's core."""
        with on_cores(self.cores.server):
            self.node.start(wait_seconds=90)
        try:
            yield
        finally:
            self.node.stop()

    def load(
        self,
        offer: Offer,
        seconds: float,
        expected: float,
        *,
        connections: int = 16,
        rate: float | None = None,
        payers: int | None = None,
        other: Other | None = None,
    ) -> Load:
        """Requests for the offer's row; if it has a price, each connection is a payer, or so many `payers`
        take turns. `expected`: requests a second, at most, for which vouchers are signed. `other`:
        instead of the node. The last answers are checked."""
        payment = None
        if offer.price:
            payment = self._prepare(offer, (seconds + WARMUP) * expected, connections, payers or connections)
        plan = Plan(
            port=other.port if other else self.node.port,
            seconds=seconds,
            connections=connections,
            warmup_seconds=WARMUP,
            rate=rate,
            infer=offer.infer,
            payment=payment,
        )
        load = drive(plan, self.cores.client)
        if payment is not None:
            offer.spend(load.sent, len(payment.payers))
        signer = other.signer if other else self.node.signer.address
        for answer in load.last:
            check_answer(self, offer, answer, signer)
        return load

    def payment(self, offer: Offer, payers: tuple[Payer, ...] = (), requests: int = 0) -> Payment:
        return Payment(
            domain=self.network.domain,
            node=self.node.operator,
            version_id=offer.published.version_id,
            price=offer.price,
            payers=payers,
            requests=requests,
        )

    def _prepare(self, offer: Offer, requests: float, connections: int, payers: int) -> Payment:
        """Payers with vouchers for `requests` in all, and more; each goes on where it was."""
        self.add_payers(payers)
        going_on = tuple(Payer(secret, offer.spent[i] + 1) for i, secret in enumerate(self.payers[:payers]))
        if payers == connections:
            return self.payment(offer, going_on, int(requests * MORE / payers) + SPARE)
        payment = self.payment(offer, going_on, int(requests * MORE / payers) + 1)
        return replace(payment, behind=connections)


def check_answer(stage: Stage, offer: Offer, answer: bytes, signer: Address) -> None:
    """The answer is the model's, and its receipt is the node's for that input and output, and signed by
    `signer`. Raises AssertionError, FieldError, VerificationError."""
    document, output = parse_answer(answer)
    expected = offer.workload.run(offer.workload.row)
    if offer.workload.program is None:
        np.testing.assert_allclose(output.reshape(expected.shape), expected, rtol=1e-3, atol=1e-4)
    else:
        np.testing.assert_array_equal(output.reshape(expected.shape), expected)
    signed = receipt_from_json(stage.network.domain, orjson.loads(document["parameters"]["receipt"]))
    receipt = signed.receipt
    assert receipt.node == stage.node.operator and receipt.version_id == offer.published.version_id
    assert receipt.price == offer.price
    assert receipt.input_hash == commit_tensors([offer.workload.row])
    assert receipt.output_hash == commit_tensors([output.reshape(expected.shape)])
    verify_signer(receipt_digest(stage.network.domain, receipt), signed.signature, signer)


def parse_answer(answer: bytes) -> tuple[dict[str, Any], NDArray[Any]]:
    """(the JSON part, the float32 output) of an answer in the binary form. Raises ValueError."""
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.search(rb"inference-header-content-length: *([0-9]+)", head, re.IGNORECASE)
    if found is None:
        raise ValueError(f"not an answer in the binary form: {answer[:300]!r}")
    length = int(found[1])
    return orjson.loads(body[:length]), np.frombuffer(body[length:], np.float32)


@contextlib.contextmanager
def build_stage(servers: int = 1, **options: Any) -> Iterator[Stage]:
    """A chain on the generator's core and a registered node on `servers` cores, not started; `options` go to
    its configuration. Its folder is on the disk of this repository: no receipt is durable in memory."""
    cores = Cores.find(servers)
    base = ROOT / ".cache" / "benches"
    base.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=base)))
        terms = {"disputes": True, "bond": BOND, "slash_amount": SLASH, "dispute_window": 600}
        with on_cores(cores.client):
            network = stack.enter_context(local_network(folder, **terms))
        options.setdefault("settlement", SettlementConfig(max_age_seconds=3600))
        node = network.add_node(**options)
        network.mint(node.operator, STAKE)
        network.send_as(node.operator, network.token.approve(network.nodes.address, STAKE))
        network.send_as(node.operator, network.nodes.stake(node.operator, STAKE))
        yield Stage(network, node, cores)
