"""An RPC endpoint that fails in every way, and strangers' bad requests, amid paid traffic: nobody who pays is
refused for it, and receipts, batches and money are right in the end."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from assay.commitments.receipts import receipt_from_json
from assay.commitments.signing import verify_signer
from assay.node.config import LimitsConfig, SettlementConfig, load_config, write_config
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.log import ReceiptLog

from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.nodes import Consumer, Network, NodeUnderTest, Published, local_network
from tests.support.onnx_models import linear_manifest, linear_model

pytestmark = pytest.mark.e2e

PRICE: Final = 5
PAYING: Final = 3
FUNDS: Final = 1 << 20
WINDOW: Final = 60
MAX_BODY: Final = 1 << 20
ANSWERS: Final = 10
"""To every payer, while a fault still lasts."""
BRIEF: Final = 0.6
"""Seconds, within which the chain's client asks again by itself."""
LONG: Final = 4.0
"""By then it has given up at least once, and whoever asked it must do without."""
FAULTS: Final[tuple[tuple[Fault, str | None, float], ...]] = (
    (Fault.LATENCY, None, BRIEF),
    (Fault.RATE_LIMIT, None, BRIEF),
    (Fault.SERVER_ERROR, None, BRIEF),
    (Fault.DROP, None, LONG),
    (Fault.DROP_AFTER_FORWARD, None, BRIEF),
    (Fault.DROP_AFTER_FORWARD, "eth_sendRawTransaction", LONG),
    (Fault.MALFORMED, None, LONG),
    (Fault.EMPTY_LOGS, "eth_getLogs", BRIEF),
    (Fault.STALE_HEAD, None, BRIEF),
)


@dataclass(eq=False)
class Paying(threading.Thread):
    """One consumer's requests, one after another over one connection, until it is told to end. What fails in
    transport or is put off is sent again, byte for byte."""

    node: NodeUnderTest
    published: Published
    consumer: Consumer
    ended: threading.Event
    receipts: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    @property
    def promised(self) -> int:
        return len(self.receipts) * PRICE

    def run(self) -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not self.ended.is_set() and not self.refusals:
                self._ask(client, len(self.receipts) + 1)

    def _ask(self, client: httpx.Client, number: int) -> None:
        voucher = self.consumer.voucher(
            self.node.operator, self.published.version_id, number * PRICE, number - 1
        )
        body = {"inputs": [row(float(number))], "parameters": voucher}
        while (answer := client.post(infer_url(self.node, self.published), json=body)).status_code == 503:
            time.sleep(0.02)
        if answer.status_code == 200:
            self.receipts.append(json.loads(answer.json()["parameters"]["receipt"]))
        else:
            self.refusals.append(answer.text)


@dataclass(eq=False)
class Hostile(threading.Thread):
    """Asks the same again and again, whatever it is told."""

    url: str
    body: bytes
    ended: threading.Event
    codes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not self.ended.is_set():
                try:
                    answer = client.post(self.url, content=self.body)
                    self.codes[str(answer.json().get("code", answer.status_code))] += 1
                except httpx.TransportError:
                    self.codes["connection"] += 1  # closed on it while its body is too long
                time.sleep(0.05)


def row(first: float) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [first, 0.0, 0.0, 0.0]}


def infer_url(node: NodeUnderTest, published: Published) -> str:
    return f"{node.url}{published.path}/infer"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with local_network(tmp_path, dispute_window=WINDOW) as made:
        yield made


def test_node__rpc_faults_and_bad_requests_amid_paid_traffic__concern_no_payer(network: Network) -> None:
    node = network.add_node(
        settlement=SettlementConfig(poll_seconds=0.1, max_age_seconds=1, max_receipts=100),
        limits=LimitsConfig(max_body_mib=1, max_json_mib=1),
    )
    published = network.publish("linear", linear_model(), linear_manifest())
    node.offer(published, PRICE)
    ended = threading.Event()
    payers = [
        Paying(node, published, network.add_consumer((node.operator, FUNDS)), ended) for _ in range(PAYING)
    ]
    bad = hostile_requests(network, node, published, ended)
    with fault_proxy(network.chain.url) as proxy:
        write_config(node.folder, load_config(node.folder).model_copy(update={"rpc_urls": [proxy.url]}))
        node.start()
        try:
            for one in (*payers, *bad.values()):
                one.start()
            for fault, method, seconds in FAULTS:
                proxy.inject(fault, method, times=None, seconds=0.3, blocks=2)
                posted, asked = len(posted_batches(network)), len(proxy.seen)
                go_on(payers, seconds)
                wait_for(lambda asked=asked, method=method: method in {None, *proxy.seen[asked:]})  # type: ignore[misc]
                proxy.clear()
                wait_for(lambda posted=posted: len(posted_batches(network)) > posted)  # type: ignore[misc]
                network.chain.increase_time(WINDOW)
            end(ended, [*payers, *bad.values()])
            assert [one.refusals for one in payers] == [[]] * PAYING
            check_refusals(bad)
            check_receipts(network, node, payers)
            check_money(network, node, published, payers)
            check_asked(proxy)
        finally:
            ended.set()
            assert node.stop() == 0


def hostile_requests(
    network: Network, node: NodeUnderTest, published: Published, ended: threading.Event
) -> dict[str, Hostile]:
    """By the code of the refusal that each must get."""
    poor, stranger = network.add_consumer((node.operator, PRICE - 1)), network.add_consumer()
    short = poor.voucher(node.operator, published.version_id, PRICE, 0)
    forged = short | {
        "voucher_signature": stranger.voucher(node.operator, published.version_id, 1, 0)["voucher_signature"]
    }
    bodies = {
        "escrow_short": json.dumps({"inputs": [row(1.0)], "parameters": short}).encode(),
        "voucher_signature": json.dumps({"inputs": [row(1.0)], "parameters": forged}).encode(),
        "input_json": b'{"inputs": [{"name": "x", ',
        "too_large": b" " * (MAX_BODY + 1),
    }
    return {code: Hostile(infer_url(node, published), body, ended) for code, body in bodies.items()}


def go_on(payers: list[Paying], seconds: float) -> None:
    """Until so many have passed, and every payer has had answers after that."""
    time.sleep(seconds)
    before = [len(one.receipts) for one in payers]

    def answered() -> bool:
        return all(len(one.receipts) >= n + ANSWERS for one, n in zip(payers, before, strict=True))

    wait_for(lambda: answered() or any(one.refusals for one in payers))


def end(ended: threading.Event, threads: list[threading.Thread]) -> None:
    ended.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def check_refusals(bad: dict[str, Hostile]) -> None:
    for code, one in bad.items():
        assert one.codes[code] > 0, (code, one.codes)
        assert not {"200", "internal"} & set(one.codes), (code, one.codes)


def check_receipts(network: Network, node: NodeUnderTest, payers: list[Paying]) -> None:
    """Each consumer holds sequences 1…n, each signed, each for its own input; so does the log."""
    with closing(
        ReceiptLog(SqliteDatabase(node.folder / "receipts.sqlite3"), network.domain, node.operator)
    ) as log:
        for one in payers:
            number = len(one.receipts)
            assert [receipt["sequence"] for receipt in one.receipts] == list(range(1, number + 1))
            assert len({receipt["input_hash"] for receipt in one.receipts}) == number
            for receipt in one.receipts:
                signed = receipt_from_json(network.domain, receipt)
                verify_signer(bytes.fromhex(receipt["digest"][2:]), signed.signature, node.signer.address)
            wait_for(lambda one=one: sequence_of(log, one) == len(one.receipts))  # type: ignore[misc]


def sequence_of(log: ReceiptLog, payer: Paying) -> int:
    return sum(state.sequence for state in log.channels_of(payer.consumer.address))


def check_money(network: Network, node: NodeUnderTest, published: Published, payers: list[Paying]) -> None:
    """Each pays what it promised, each batch is posted once, and all of it arrives."""
    settlement = network.settlement

    def settled() -> list[int]:
        found = [one.consumer.address for one in payers]
        return [settlement.channel(one, node.operator, published.version_id).settled for one in found]

    wait_for(lambda: settled() == [one.promised for one in payers])
    for one in payers:
        left = settlement.escrow(one.consumer.address, node.operator).balance
        assert left == FUNDS - one.promised
    posted = posted_batches(network)
    assert len({batch["batch_id"] for batch in posted}) == len(posted)
    assert sum(batch["amount"] for batch in posted) == sum(one.promised for one in payers)
    network.chain.increase_time(WINDOW)
    treasury = network.chain.accounts[0]

    def paid_out() -> int:
        return network.token.balance_of(node.operator) + settlement.claimable(treasury)  # type: ignore[arg-type]

    wait_for(lambda: paid_out() == sum(one.promised for one in payers))


def posted_batches(network: Network) -> list[Mapping[str, Any]]:
    """What the events on the chain say."""
    head, settlement = network.client.block_number(), network.settlement
    logs = network.client.get_logs(network.deployment.block, head, [settlement.address])
    return [event.args for event in settlement.decode_logs(logs) if event.name == "BatchPosted"]


def check_asked(proxy: FaultProxy) -> None:
    """The faults met what a node asks for."""
    assert {"eth_getLogs", "eth_sendRawTransaction", "eth_call"} <= set(proxy.seen)


def wait_for(check: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
