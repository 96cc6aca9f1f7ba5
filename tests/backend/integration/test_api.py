"""The REST API over an index of a real chain: one world, read by every test."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from assay.api.app import create_app
from assay.cli import main
from assay.client.accelerator import Accelerator
from assay.client.transport import NodeHttp
from assay.commitments.merkle import verify_proof
from assay.commitments.receipts import receipt_digest, receipt_file_from_json
from assay.db.engine import open_engine
from assay.exact.lowering import lower
from assay.hub.client import HubClient
from assay.index.batches import BatchChecker
from assay.index.download import Limits
from assay.index.probe import Prober
from assay.index.programs import ProgramChecker
from assay.index.rows import plain
from assay.types import Assurance, Hash32, ReceiptStatus
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.support.api_server import serving
from tests.support.batch_server import BatchServer, batch_server
from tests.support.cli import RUNNER
from tests.support.deploy import UNIT
from tests.support.index_tables import check_batches, follow, new_database, new_follower, url_of
from tests.support.index_world import PostedBatch, TestNode, World, index_world
from tests.support.onnx_models import convolution_model

FALSE_PROGRAM = Hash32(b"\x07" * 32)


@dataclass
class Setting:
    world: World
    client: httpx.Client
    app: FastAPI
    exact: Hash32
    signed: Hash32
    idle: Hash32
    false: Hash32
    node: TestNode
    batches: dict[str, PostedBatch]

    def get(self, path: str, expected: int = 200, /, **params: Any) -> Any:
        reply = self.client.get(path, params=params or None)
        assert reply.status_code == expected, reply.text
        return reply.json()


def describe(world: World, node: TestNode, server: BatchServer, versions: list[Hash32]) -> None:
    server.describe(
        {
            "node": node.operator,
            "signer": node.signer.address,
            "chain_id": world.deployment.chain_id,
            "settlement": world.deployment.addresses["Settlement"],
            "offers": [{"version_id": "0x" + version.hex()} for version in versions],
            "requests": {"received": 10, "in_deadline": 9},
        }
    )


def equivocate(world: World, node: TestNode, version: Hash32) -> None:
    """Two receipts for one place in a channel, shown to the contract."""
    first, second = (world.receipt(node, version, world.consumer(9).address, 1, price) for price in (1, 2))
    world.send(world.accounts[0], world.game.prove_equivocation(first, second))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("api")
    with index_world(folder, disputes=True) as world, batch_server() as server:
        model, other = convolution_model(), convolution_model(seed=1)
        digests = [HubClient(folder / "hub").put(artifact) for artifact in (model, other)]
        exact = world.publish("digits", lower(model).root, digests[0])
        signed, idle = world.publish("trees"), world.publish("idle")
        false = world.publish("false", FALSE_PROGRAM, digests[1])
        node = world.add_node(server.url, {exact: 10, signed: 10, false: 10})
        dead = world.add_node("http://127.0.0.1:9", {idle: 1})
        describe(world, node, server, [exact, signed, false])
        batches = {
            "exact": world.serve(node, exact, world.consumer(1), 5),
            "voided": world.serve(node, exact, world.consumer(2), 3),
            "signed": world.serve(node, signed, world.consumer(1), 4),
            "withheld": world.serve(dead, exact, world.consumer(1), 2),
            "free": world.serve(node, signed, world.consumer(3), 2, price=0),
            "false": world.serve(node, false, world.consumer(3), 1),
        }
        voided = batches["voided"]
        world.time_out(world.open_dispute(voided.receipts[1], voided))
        world.finish()
        batches["pending"] = world.serve(node, exact, world.consumer(1), 1)
        batches["disputed"] = world.serve(node, exact, world.consumer(4), 2)
        world.open_dispute(batches["disputed"].receipts[0], batches["disputed"])
        equivocate(world, node, exact)
        for batch in batches.values():
            if batch is not batches["withheld"]:
                server.publish(batch.batch_id, batch.body)
        engine = new_database(folder)
        follow(new_follower(engine, world.rpc, world.deployment))
        domain = world.deployment.domain
        check_batches(BatchChecker(engine, domain, Limits(1 << 20, 2.0, True)))
        assert ProgramChecker(engine, folder / "hub").step() == 2
        prober = Prober(engine, domain, deadline=2.0, allow_private=True)
        assert prober.step() == 1
        reader = open_engine(url_of(engine), read_only=True)
        app = create_app(reader)
        with serving(app) as url, httpx.Client(base_url=url) as client:
            yield Setting(world, client, app, exact, signed, idle, false, node, batches)
        reader.dispose()


def test_network__program_and_none__counts_only_what_is_verified(setting: Setting) -> None:
    found = setting.get("/v1/network")
    assert found["verified_inferences"] == 5 + 3 - 1
    assert found["settled_inferences"] == 5 + 2 + 4 + 2 + 2 + 1
    assert found["settled_signed_only"] == found["settled_inferences"] - 7
    assert (found["settled_paid"], found["verified_paid"]) == (14, 7)
    assert (found["active_versions"], found["live_versions"]) == (4, 3)
    assert found["accessibility"] == pytest.approx(3 / 4)
    assert found["verifiability"] == pytest.approx(7 / 14)
    assert found["scalability"] == pytest.approx(998 / 1998), "one node answers, and was slashed twice"
    product = found["accessibility"] * found["verifiability"] * found["scalability"]
    assert found["utility"] == pytest.approx(product)
    per_version = {bucket["key"]: bucket for bucket in found["per_version"]}
    assert per_version["0x" + setting.exact.hex()]["verified"] == 7
    assert per_version["0x" + setting.signed.hex()] == {
        "key": "0x" + setting.signed.hex(),
        "verified": 0,
        "settled": 6,
    }
    assert sum(bucket["verified"] for bucket in found["per_day"]) == 7
    assert {b["key"]: b["verified"] for b in found["per_node"]}[setting.node.operator] == 7


def test_receipt__signed_only_and_final__is_never_called_verified(setting: Setting) -> None:
    for receipt in setting.get("/v1/receipts", version_id="0x" + setting.signed.hex())["items"]:
        assert (receipt["assurance"], receipt["status"], receipt["verified"]) == ("signed", "final", False)


def test_network__disputes__counts_them_and_what_was_slashed(setting: Setting) -> None:
    found = setting.get("/v1/network")
    assert (found["disputes_open"], found["disputes_won_by_node"]) == (1, 0)
    assert (found["disputes_won_by_challenger"], found["frauds_proven"]) == (1, 1)
    assert found["slashed"] == str(2 * UNIT)


def test_versions__program_that_does_not_follow_from_the_artifact__is_signed_and_says_why(
    setting: Setting,
) -> None:
    version = setting.get(f"/v1/versions/0x{setting.false.hex()}")
    assert version["program_root"] == "0x" + FALSE_PROGRAM.hex()
    assert version["assurance"] == "signed" and "not the published one" in version["assurance_reason"]
    (receipt,) = setting.get("/v1/receipts", version_id=version["version_id"])["items"]
    assert (receipt["assurance"], receipt["status"], receipt["verified"]) == ("signed", "final", False)
    buckets = {b["key"]: b for b in setting.get("/v1/network")["per_version"]}
    assert (buckets[version["version_id"]]["verified"], buckets[version["version_id"]]["settled"]) == (0, 1)


def test_accelerator__of_the_sdk__reads_figures_disputes_and_assurances(setting: Setting) -> None:
    with contextlib.closing(NodeHttp()) as http:
        accelerator = Accelerator(str(setting.client.base_url), http)
        assert accelerator.network() == setting.get("/v1/network")
        assert accelerator.disputes(state="open") == setting.get("/v1/disputes", state="open")
        assert accelerator.assurance(setting.exact) == (Assurance.EXACT, "")
        assurance, reason = accelerator.assurance(setting.false) or (None, "")
        assert assurance is Assurance.SIGNED and "not the published one" in reason
        assert accelerator.assurance(Hash32(bytes(32))) is None


def test_model_show__program_that_does_not_follow__says_what_the_index_found(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "ASSAY_RPC_URLS": json.dumps([setting.world.chain.url]),
        "ASSAY_DEPLOYMENTS": str(setting.world.deployment.folder.parent),
        "ASSAY_API_URL": str(setting.client.base_url),
        "ASSAY_HUB_URL": str(tmp_path),
        "ASSAY_DATA": str(tmp_path / "data"),
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, text)
    result = RUNNER.invoke(main, ["model", "show", "false"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "the index holds version 1 to be signed" in result.stdout
    network = RUNNER.invoke(main, ["network"], catch_exceptions=False).stdout
    assert "disputes won by challenger" in network and str(2 * UNIT) in network


def test_disputes__open_and_won__say_how_they_stand(setting: Setting) -> None:
    running, won = setting.get("/v1/disputes")["items"]
    assert (running["state"], running["phase"], running["to_move"]) == ("open", "ASSERT", "node")
    assert running["deadline"] > running["opened_at"] and running["closed_at"] is None
    assert (won["state"], won["to_move"], won["deadline"]) == ("challenger_won", None, None)
    assert (won["slashed"], won["to_challenger"]) == (str(UNIT), str(UNIT // 2))
    batch = setting.batches["voided"]
    assert won["batch_id"] == batch.batch_id
    digest = receipt_digest(setting.world.deployment.domain, batch.receipts[1].receipt)
    assert won["digest"] == "0x" + digest.hex()


def test_dispute__by_number__gives_the_state_that_the_contract_keeps(setting: Setting) -> None:
    running = setting.get("/v1/disputes", state="open")["items"][0]
    data = setting.get(f"/v1/disputes/{running['dispute_id']}")
    record = setting.world.dispute(running["dispute_id"])
    assert list(data["game"].values()) == [plain(value) for value in record.state.row()]
    assert data["receipt"]["signature"] == "0x" + record.signature.hex()
    assert data["played"] == []
    assert setting.get("/v1/disputes/99", 404)["code"] == "dispute_unknown"


def test_disputes__filters__give_those_alone(setting: Setting) -> None:
    everyone = {"node": setting.node.operator, "challenger": setting.world.accounts[0]}
    for name, value in (everyone | {"version_id": "0x" + setting.exact.hex()}).items():
        assert len(setting.get("/v1/disputes", **{name: value})["items"]) == 2
    assert setting.get("/v1/disputes", node=setting.world.accounts[0])["items"] == []
    won = setting.get("/v1/disputes", state="challenger_won")["items"]
    assert setting.get("/v1/disputes", receipt=won[0]["digest"])["items"] == won
    assert setting.get("/v1/disputes", state="node_won")["items"] == []


def test_frauds__equivocation__names_both_receipts(setting: Setting) -> None:
    (fraud,) = setting.get("/v1/frauds", node=setting.node.operator)["items"]
    assert (fraud["kind"], fraud["slashed"]) == ("equivocation", str(UNIT))
    assert fraud["first_digest"] != fraud["second_digest"]
    assert setting.get("/v1/frauds", kind="contradiction")["items"] == []


def test_receipts__under_dispute__say_so_and_others_of_the_batch_wait(setting: Setting) -> None:
    found = setting.get("/v1/receipts", batch_id=setting.batches["disputed"].batch_id)["items"]
    assert [(r["index"], r["status"], r["disputes"]) for r in found] == [
        (1, "pending", []),
        (0, "disputed", [2]),
    ]
    batch = setting.get(f"/v1/batches/{setting.batches['disputed'].batch_id}")
    assert batch["status"] == "held"


def test_receipts__filters__give_what_was_served(setting: Setting) -> None:
    operator, consumer = setting.node.operator, setting.world.consumer(1).address
    assert len(setting.get("/v1/receipts", node=operator)["items"]) == 18
    assert len(setting.get("/v1/receipts", node=operator.lower(), consumer=consumer)["items"]) == 10
    batch = setting.batches["voided"]
    found = setting.get("/v1/receipts", batch_id=batch.batch_id)["items"]
    assert [(r["index"], r["status"]) for r in found] == [(2, "final"), (1, "void"), (0, "final")]
    assert [r["verified"] for r in found] == [True, False, True]
    pending = setting.get("/v1/receipts", batch_id=setting.batches["pending"].batch_id)["items"]
    assert [(r["status"], r["verified"]) for r in pending] == [("pending", False)]


@pytest.mark.parametrize(
    ("name", "position", "status"),
    [("exact", 4, "FINAL"), ("voided", 1, "VOID"), ("signed", 0, "FINAL"), ("pending", 0, "PENDING")],
)
def test_proof__every_kind_of_receipt__convinces_the_contract(
    setting: Setting, name: str, position: int, status: str
) -> None:
    batch = setting.batches[name]
    domain = setting.world.deployment.domain
    digest = receipt_digest(domain, batch.receipts[position].receipt)
    proof = setting.get(f"/v1/receipts/0x{digest.hex()}/proof")
    siblings = [bytes.fromhex(s[2:]) for s in proof["siblings"]]
    root = bytes.fromhex(proof["receipts_root"][2:])
    assert verify_proof(root, digest, siblings, proof["index"])
    answer = setting.world.rpc.request(
        "eth_call", [{"to": proof["settlement"], "data": proof["receipt_status_calldata"]}, "latest"]
    )
    assert ReceiptStatus(int(answer, 16)).name == status
    assert proof["receipt"]["status"] == status.lower()


def test_receipt__as_a_file__is_read_back_by_the_commitments(setting: Setting) -> None:
    signed = setting.batches["exact"].receipts[2]
    digest = receipt_digest(setting.world.deployment.domain, signed.receipt)
    data = setting.get(f"/v1/receipts/0x{digest.hex()}")
    assert receipt_file_from_json(data) == (setting.world.deployment.domain, signed)


def test_models_and_versions__by_id_and_by_name__agree(setting: Setting) -> None:
    publisher = setting.world.accounts[1]
    by_name = setting.get(f"/v1/models/{publisher}/digits")
    assert setting.get(f"/v1/models/{by_name['model_id']}") == by_name
    version = setting.get(f"/v1/versions/0x{setting.exact.hex()}")
    assert (version["assurance"], version["assurance_reason"]) == ("exact", "")
    assert version["active_offers"] == 1
    assert by_name["versions"][0]["artifact_cid"].startswith("bafkrei")
    assert [m["name"] for m in setting.get("/v1/models", name="trees")["items"]] == ["trees"]
    assert setting.get("/v1/versions", status="revoked")["items"] == []


def test_offers__live_and_dead_node__say_so(setting: Setting) -> None:
    offers = setting.get("/v1/offers")["items"]
    assert [(o["price"], o["is_live"]) for o in offers] == [("1", False), *[("10", True)] * 3]
    nodes = {n["node"]: n for n in setting.get("/v1/nodes")["items"]}
    assert nodes[setting.node.operator]["is_answering"]
    dead = next(n for name, n in nodes.items() if name != setting.node.operator)
    assert not dead["is_answering"] and dead["last_probe"]["reason"]
    one = setting.get(f"/v1/nodes/{setting.node.operator}")
    assert [s["signer"] for s in one["signers"]] == [setting.node.signer.address]
    found = setting.get(f"/v1/versions/0x{setting.exact.hex()}/offers")["items"]
    assert [offer["node"] for offer in found] == [setting.node.operator]


def test_batches__with_vouchers__add_up(setting: Setting) -> None:
    withheld = setting.get("/v1/batches", availability="unavailable")["items"]
    assert [b["batch_id"] for b in withheld] == [setting.batches["withheld"].batch_id]
    assert withheld[0]["availability_reason"]
    batch = setting.get(f"/v1/batches/{setting.batches['exact'].batch_id}")
    assert (batch["amount"], batch["count"], batch["status"]) == ("50", "5", "final")
    assert [(v["paid"], v["counted"], v["skipped"]) for v in batch["vouchers"]] == [("50", "5", None)]


def test_channels__of_a_consumer__show_escrow_after_void(setting: Setting) -> None:
    (channel,) = setting.get("/v1/channels", consumer=setting.world.consumer(2).address)["items"]
    assert (channel["settled"], channel["owed"], channel["count"], channel["escrow"]) == (
        "30",
        "0",
        "3",
        "10",
    )


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models", "/v1/versions", "/v1/nodes", "/v1/offers", "/v1/batches", "/v1/receipts"),
        *("/v1/channels", "/v1/disputes", "/v1/frauds"),
    ],
)
def test_lists__page_by_page__give_the_whole_list_once(setting: Setting, path: str) -> None:
    whole = setting.get(path, limit=200)
    assert whole["next_cursor"] is None
    assert {"indexed_block", "head_block", "finalized_block"} < set(whole)
    paged, cursor = [], {}
    while cursor is not None:
        page = setting.get(path, limit=1, **cursor)
        paged += page["items"]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert paged == whole["items"]


@pytest.mark.parametrize(
    "cursor", ["x", "W10", "WzFd", "WyJhIiwiYiJd", "WzEsMV0x", "é", "WzFlOTksMV0", "W251bGwsMV0"]
)
def test_lists__cursor_from_elsewhere__is_refused(setting: Setting, cursor: str) -> None:
    assert setting.get("/v1/models", 422, cursor=cursor)["code"] == "cursor_invalid"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/models/0x" + "00" * 32, 404, "model_unknown"),
        ("/v1/receipts/0x" + "00" * 32 + "/proof", 404, "receipt_unknown"),
        ("/v1/batches/0x00", 422, "parameter_invalid"),
        ("/v1/models?limit=201", 422, "parameter_invalid"),
        ("/v1/nothing", 404, "not_found"),
    ],
)
def test_errors__wrong_requests__say_what_and_which_code(
    setting: Setting, path: str, status: int, code: str
) -> None:
    body = setting.get(path, status)
    assert (body["code"], bool(body["error"])) == (code, True)


def test_etag__same_state__is_answered_304(setting: Setting) -> None:
    first = setting.client.get("/v1/models")
    again = setting.client.get("/v1/models", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert setting.client.get("/v1/models", headers={"if-none-match": '"x"'}).status_code == 200


def test_post__anywhere__is_not_allowed(setting: Setting) -> None:
    assert setting.client.post("/v1/models").status_code == 405


def parse_stream(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    entries = [
        dict(line.split(": ", 1) for line in block.split("\n")) for block in text.strip().split("\n\n")
    ]
    return [(int(e["id"]), e["event"], json.loads(e["data"])) for e in entries if "id" in e]


def test_events__resumed_in_the_middle__continue_where_they_ended(setting: Setting) -> None:
    whole = parse_stream(setting.client.get("/v1/events", params={"follow": False}).text)
    assert [entry[0] for entry in whole] == list(range(1, len(whole) + 1))
    assert whole[-1][2]["name"] in {"Equivocated", "Slashed"}
    opened = next(entry for _, _, entry in whole if entry["name"] == "DisputeOpened")
    assert opened["args"]["state"][0] == setting.world.accounts[0], "structs are lists in the ABI's order"
    part = setting.client.get(
        "/v1/events", params={"follow": False, "limit": 2}, headers={"Last-Event-ID": "5"}
    )
    assert parse_stream(part.text) == whole[5:7]
    assert part.headers["content-type"].startswith("text/event-stream")


def test_health__index_fresh__is_ready_and_measured(setting: Setting) -> None:
    assert setting.get("/healthz") == {"status": "ok"}
    assert setting.get("/readyz")["status"] == "ready"
    text = setting.client.get("/metrics").text
    assert "assay_index_indexed_block" in text and "assay_index_batches_available 7.0" in text


def test_readyz__index_silent__is_not_ready(setting: Setting) -> None:
    context = setting.app.state.context
    context.clock = lambda: time.time() + 1_000
    try:
        assert setting.get("/readyz", 503)["code"] == "not_ready"
    finally:
        context.clock = time.time


@pytest.fixture(scope="module")
def api_schema(setting: Setting) -> Any:
    return schemathesis.openapi.from_url(f"{setting.client.base_url}/openapi.json")


lazy_schema = schemathesis.pytest.from_fixture("api_schema").exclude(path="/v1/events")


@lazy_schema.parametrize()
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_schema__generated_requests__never_5xx_and_conform(case: Any) -> None:
    has_cursor = "cursor" in (case.query or {})  # what a cursor may be is not for a schema to say
    case.call_and_validate(excluded_checks=[positive_data_acceptance] if has_cursor else [])


@pytest.mark.parametrize("after", ["-1", "x", "9" * 30, "1e3", ""])
def test_events__malformed_resume_points__are_refused(setting: Setting, after: str) -> None:
    reply = setting.client.get("/v1/events", params={"follow": False}, headers={"Last-Event-ID": after})
    assert reply.status_code == 422
