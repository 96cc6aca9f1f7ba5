"""A real node process that serves exact versions: what it refuses to load, what it keeps, what it shows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from assay.chain.logs import scan_logs
from assay.client import Client, InputInvalid
from assay.commitments.public_data import ReceiptData
from assay.commitments.receipts import receipt_from_json
from assay.node.config import SettlementConfig
from assay.node.doctor import Doctor
from assay.types import Hash32

from tests.support.exact_version import STEPS, ExactVersion, exact_version, row
from tests.support.nodes import Network, NodeUnderTest, Published, local_network
from tests.support.onnx_models import linear_manifest, linear_model

WINDOW = 600
PRICE = 5
BOND, SLASH = 10, 400


@dataclass
class World:
    network: Network
    node: NodeUnderTest
    version: ExactVersion
    exact: Published
    plain: Published
    other_root: Published
    other_test: Published
    paid: Published

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.node.url + path, timeout=10.0)

    def ask(self, x: Any, published: Published | None = None, **parameters: Any) -> httpx.Response:
        return self.node.infer(published or self.exact, x.tolist(), datatype="UINT8", **parameters)

    def receipt(self, x: Any, **parameters: Any) -> dict[str, Any]:
        response = self.ask(x, **parameters)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = json.loads(response.json()["parameters"]["receipt"])
        return found

    def refusal(self, published: Published) -> str:
        """Why the node does not serve a version."""
        response = self.ask(row(), published)
        assert response.status_code == 503
        return str(response.json()["error"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("exact")
    terms = {"disputes": True, "bond": BOND, "slash_amount": SLASH, "dispute_window": WINDOW}
    with local_network(folder, **terms) as network:
        version = exact_version()
        wrong = exact_version(shift=1)
        root = Hash32(b"\x11" * 32)
        published = (
            network.publish_exact("exact", version),
            network.publish("plain", linear_model(), linear_manifest()),
            network.publish_exact("other-root", version, root),
            network.publish_exact("other-test", wrong),
            network.publish_exact("paid", version),
        )
        settlement = SettlementConfig(poll_seconds=0.2, max_age_seconds=0.5, free_receipts=True)
        node = network.add_node(settlement=settlement)
        for one in published:
            node.offer(one, PRICE if one.name == "paid" else 0)
        node.start(offers=3)
        try:
            made = World(network, node, version, *published)
            wait_for(lambda: made.get("/v2/health/ready").status_code == 200)
            yield made
        finally:
            node.stop()


def wait_for(check: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


# --- loading ---------------------------------------------------------------------------------------------


def test_load__exact_version_that_checks__is_offered_as_exact(world: World) -> None:
    offers = {
        offer["model"].partition("/")[2]: offer["assurance"]
        for offer in world.get("/v1/node").json()["offers"]
    }
    assert offers == {"exact": "exact", "paid": "exact", "plain": "signed"}


def test_load__another_root__is_refused_by_name(world: World) -> None:
    problem = world.refusal(world.other_root)
    assert "refused (program_root)" in problem
    assert "0x" + world.version.program.root.hex() in problem


def test_load__self_test_that_does_not_hold__is_refused_by_name(world: World) -> None:
    assert "refused (self_test_expected)" in world.refusal(world.other_test)


def test_doctor__refused_versions__says_why_and_what_a_dispute_costs(world: World) -> None:
    findings = {finding.name: finding for finding in Doctor(world.node.folder).examine()}
    by_model = {name.partition("/")[2]: finding for name, finding in findings.items() if "/" in name}
    assert {name: finding.ok for name, finding in by_model.items()} == {
        "exact@1": True,
        "plain@1": True,
        "other-root@1": False,
        "other-test@1": False,
        "paid@1": True,
    }
    assert "program root" in by_model["other-root@1"].detail
    assert findings["gas"].ok
    world.network.chain.set_balance(world.node.signer.address, 10**13)
    try:
        low = {finding.name: finding for finding in Doctor(world.node.folder).examine()}["gas"]
    finally:
        world.network.chain.set_balance(world.node.signer.address, 10**18)
    assert not low.ok
    assert "one dispute" in low.detail


# --- requests --------------------------------------------------------------------------------------------


def test_infer__exact_version__answers_what_its_program_computes(world: World) -> None:
    x = row(3, rows=4)
    response = world.ask(x)
    (output,) = response.json()["outputs"]
    assert output["data"] == world.version.run(x).reshape(-1).tolist()


@pytest.mark.parametrize("value", ["yes", 1, None, [True]])
def test_infer__public_that_is_no_boolean__is_refused(world: World, value: Any) -> None:
    response = world.ask(row(), public=value)
    assert (response.status_code, response.json()["code"]) == (400, "input_public")


def test_infer__no_rows__is_refused(world: World) -> None:
    body = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [0, STEPS], "data": []}]}
    response = httpx.post(f"{world.node.url}{world.exact.path}/infer", json=body, timeout=10.0)
    assert response.status_code == 400


# --- public data -----------------------------------------------------------------------------------------


def test_data__public_receipt__is_shown_to_anybody(world: World) -> None:
    x = row(7, rows=2)
    receipt = world.receipt(x, public=True)
    assert receipt["public"] is True
    assert world.get(f"/v1/receipts/{receipt['digest']}").json() == receipt
    answer = world.get(f"/v1/receipts/{receipt['digest']}/data")
    assert answer.status_code == 200
    data = ReceiptData.from_json(answer.json())
    assert np.array_equal(data.inputs[0].array, x)
    assert np.array_equal(data.outputs[0].array, world.version.run(x))
    signed = receipt_from_json(world.network.domain, receipt).receipt
    assert (data.input_hash, data.output_hash) == (signed.input_hash, signed.output_hash)


def test_data__private_receipt__is_withheld_and_kept_for_a_defence(world: World) -> None:
    receipt = world.receipt(row(8))
    assert "public" not in receipt
    answer = world.get(f"/v1/receipts/{receipt['digest']}/data")
    assert (answer.status_code, answer.json()["code"]) == (404, "private")


@pytest.mark.parametrize(
    ("path", "status"), [("0x" + "00" * 32, 404), ("0x00", 400), ("0x" + "00" * 32 + "/x", 404)]
)
def test_data__no_such_receipt__is_not_found(world: World, path: str, status: int) -> None:
    assert world.get(f"/v1/receipts/{path}/data").status_code == status


def test_data__version_that_is_not_exact__is_never_public(world: World) -> None:
    response = world.node.infer(world.plain, [[1.0, 2.0, 3.0, 4.0]], public=True)
    receipt = json.loads(response.json()["parameters"]["receipt"])
    assert "public" not in receipt
    assert world.get(f"/v1/receipts/{receipt['digest']}/data").json()["code"] == "private"


def test_data__repeated_request__is_as_public_as_the_first(world: World) -> None:
    consumer = world.network.add_consumer((world.node.operator, 100))
    voucher = consumer.voucher(world.node.operator, world.paid.version_id, PRICE, 0)
    x = row(11)
    first = json.loads(world.ask(x, world.paid, **voucher).json()["parameters"]["receipt"])
    again = json.loads(world.ask(x, world.paid, public=True, **voucher).json()["parameters"]["receipt"])
    assert first == again
    assert "public" not in again


def test_batch__public_and_private_receipts__says_which(world: World) -> None:
    public, private = world.receipt(row(20), public=True), world.receipt(row(21))
    found: dict[str, bool] = {}

    def in_batch() -> bool:
        settlement = world.network.settlement
        for log in scan_logs(settlement, [settlement.abi.topic("BatchPosted")], 0):
            lines = world.get(f"/v1/batches/{log['topics'][1]}").text.splitlines()[1:]
            for line in map(json.loads, lines):
                found[line["digest"]] = line.get("public", False)
        return {public["digest"], private["digest"]} <= found.keys()

    wait_for(in_batch)
    assert found[public["digest"]] is True
    assert found[private["digest"]] is False


def test_metrics__no_dispute__counts_none(world: World) -> None:
    text = world.get("/metrics").text
    assert "assay_node_disputes_open 0.0" in text
    assert "assay_node_disputes_unanswered 0.0" in text


# --- the consumer ----------------------------------------------------------------------------------------


def test_client__public_private_and_plain_requests__are_kept_and_shown_as_asked(
    world: World, tmp_path: Path
) -> None:
    name = f"{world.exact.publisher}/{world.exact.name}"
    x = row(31)
    with Client(
        rpc_urls=[world.network.chain.url],
        deployments=world.network.deployments,
        data=tmp_path,
    ) as client:
        public = client.infer(name, x, public=True)
        plain = client.infer(name, row(32))
        private = client.infer(name, row(33), private=True)
        digests = ["0x" + result.digest.hex() for result in (public, plain, private)]
        assert [world.get(f"/v1/receipts/{digest}/data").status_code for digest in digests] == [200, 404, 404]
        kept = [client.store.copy(digest) for digest in digests]
        assert [copy is not None for copy in kept] == [True, True, False]
        data = ReceiptData.from_bytes(kept[0] or b"")
        assert data.to_json() == world.get(f"/v1/receipts/{digests[0]}/data").json()
        assert np.array_equal(data.inputs[0].array, x)
        with pytest.raises(InputInvalid, match="not both"):
            client.infer(name, x, public=True, private=True)
