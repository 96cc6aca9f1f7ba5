"""The consumer's and the publisher's commands against real processes, through click's runner."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.chain.contracts import ModelRegistry
from assay.chain.keys import create_keystore
from assay.cli import main
from assay.commitments.manifest import Manifest
from assay.commitments.signing import SigningKey
from assay.commitments.tensors import commit_tensors
from assay.exact.evaluator import evaluate
from assay.exact.lowering import lower
from assay.hub.client import HubClient
from assay.node.models.self_test import parse_self_test
from assay.types import Hash32
from click.testing import CliRunner, Result

from tests.support.deploy import UNIT
from tests.support.onnx_models import build_model, convolution_model, linear_model, value
from tests.support.peer import Peer, PeerServer
from tests.support.stack import PRICE, Stack

Run = Callable[..., Result]
_APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
RUNNER = CliRunner(**_APART)  # click before 8.2 mixes the streams unless told not to


@pytest.fixture
def run(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("channel", "fund", …)` in the name of a fresh, rich account."""
    keystore = tmp_path / "consumer.json"
    key = create_keystore(keystore, "test", scrypt_n=2)
    stack.chain.set_balance(key.address, UNIT)
    stack.mint(key.address, 10 * UNIT)
    (tmp_path / "password").write_text("test\n")
    (tmp_path / "hub").mkdir()
    for name, text in {
        "ASSAY_RPC_URLS": json.dumps([stack.chain.url]),
        "ASSAY_DEPLOYMENTS": str(stack.deployment.folder.parent),
        "ASSAY_DATA": str(tmp_path / "data"),
        "ASSAY_ACCOUNT": str(keystore),
        "ASSAY_PASSWORD_FILE": str(tmp_path / "password"),
        "ASSAY_HUB_URL": str(tmp_path / "hub"),
        "ASSAY_API_URL": "http://127.0.0.1:9",
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0, input: str | None = None) -> Result:
        result = RUNNER.invoke(main, list(args), input=input, catch_exceptions=False)
        assert result.exit_code == code, result.output + result.stderr
        return result

    return run


def loads(result: Result) -> Any:
    return json.loads(result.stdout)


def test_infer__funded__writes_outputs_and_receipt(run: Run, stack: Stack, tmp_path: Path) -> None:
    node = stack.nodes[0].address
    short = run("infer", stack.model, "--input", "-", "--max-price", "0.01", code=2, input="[[1, 2, 3, 4]]")
    assert f"assay channel fund {node}" in " ".join(short.stderr.split())

    funded = loads(run("channel", "fund", node, "0.5", "--json"))
    assert funded["balance"] == str(UNIT // 2)
    assert len(funded["transactions"]) == 1  # the mock token has permits

    np.save(tmp_path / "x.npy", np.ones((1, 4)))
    args = ["infer", stack.model, "--input", "x.npy", "--out", "y.npz", "--receipt", "receipt.json"]
    data = loads(run(*args, "--max-price", "0.01", "--json"))
    assert data["price"] == str(PRICE)
    with np.load(tmp_path / "y.npz") as outputs:
        assert outputs["y"].shape == (1, 3)
    shown = loads(run("receipt", "show", "receipt.json", "--json"))
    assert shown == loads(run("receipt", "show", shown["digest"], "--json"))
    assert [file["digest"] for file in loads(run("receipt", "list", "--json"))] == [shown["digest"]]
    assert "0.01 TEST" in run("receipt", "show", "receipt.json").stdout

    channel = loads(run("channel", "show", "--json"))
    assert channel["escrows"][0]["free"] == str(UNIT // 2 - PRICE)
    assert (channel["channels"][0]["count"], channel["channels"][0]["acknowledged"]) == (1, 1)
    assert "0.49 TEST" in run("channel", "show").stdout

    early = run("receipt", "verify", "receipt.json", code=3)
    assert "has not settled it yet" in " ".join(early.stdout.split())


@pytest.mark.parametrize("option", [("--out", "y.txt"), ("--out", "no/y.npz"), ("--receipt", "no/r.json")])
def test_infer__file_that_cannot_be_written__refused_before_it_pays(
    run: Run, stack: Stack, tmp_path: Path, option: tuple[str, str]
) -> None:
    run("channel", "fund", stack.nodes[0].address, "0.5")
    refused = run("infer", stack.model, "--input", "-", *option, code=2, input="[[1, 2, 3, 4]]")
    assert option[1] in refused.stderr
    assert loads(run("channel", "show", "--json"))["channels"] == []


def test_infer__output_that_cannot_be_written_after_all__is_shown(
    run: Run, stack: Stack, tmp_path: Path
) -> None:
    run("channel", "fund", stack.nodes[0].address, "0.5")
    np.save(tmp_path / "x.npy", np.ones((1, 4)))
    (tmp_path / "full.json").symlink_to("/dev/full")
    done = run("infer", stack.model, "--input", "x.npy", "--out", "full.json", "--json", code=2)
    assert "No space left" in done.stderr
    assert list(loads(done)["outputs"]) == ["y"]


def test_receipt_verify__settled__explains_every_step_without_an_api(
    run: Run, stack: Stack, tmp_path: Path
) -> None:
    dear = stack.nodes[1]  # closes a batch after two receipts
    stack.nodes[0].kill()
    try:
        run("channel", "fund", dear.address, "1")
        for i in (1, 2):
            run("infer", stack.model, "--input", "-", "--receipt", f"r{i}.json", input="[[1, 2, 3, 4]]")
    finally:
        stack.nodes[0].start()
    steps = wait_for_batch(run)
    assert steps == {
        "domain": True, "signature": True, "signer": True, "version": True, "inclusion": True, "finality":
        None, }  # fmt: skip
    stack.chain.increase_time(61)
    report = loads(run("receipt", "verify", "r1.json", "--json"))
    assert report["final"]
    assert not report["verified"]  # the model is outside the exact profile
    (tmp_path / "proof.json").write_text(json.dumps(report["proof"]))
    text = run("receipt", "verify", "r1.json", "--proof", "proof.json").stdout
    assert "the dispute window ended" in text

    dear.kill()  # nobody but an API can say now where the receipt lies
    try:
        assert not loads(run("receipt", "verify", "r1.json", "--json", code=3))["proof"]
        with PeerServer(peer_of(stack)) as api:
            answer = 200, json.dumps(report["proof"]).encode(), None
            api.intercept = lambda path: answer if path.endswith("/proof") else None
            assert loads(run("receipt", "verify", "r1.json", "--api", api.url, "--json"))["final"]
            lie = json.dumps(report["proof"] | {"index": 1 - report["proof"]["index"]}).encode()
            answer = 200, lie, None
            assert not loads(run("receipt", "verify", "r1.json", "--api", api.url, "--json", code=3))["final"]
    finally:
        dear.start()

    data = json.loads((tmp_path / "r1.json").read_text())
    wrong = run("receipt", "verify", "r2.json", "--proof", "proof.json", code=6)
    assert "FAILED" in wrong.stdout
    (tmp_path / "forged.json").write_text(json.dumps(data | {"price": "1"}))
    assert "digest" in run("receipt", "verify", "forged.json", code=2).stderr
    other = data | {"signature": data["signature"][:-4] + "001b"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    run("receipt", "verify", "other.json", code=6)


def peer_of(stack: Stack) -> Peer:
    key = SigningKey.generate()
    return Peer(stack.deployment.domain, key.address, key, stack.version_id, PRICE, lambda: 0)


def wait_for_batch(run: Run) -> dict[str, bool | None]:
    for _ in range(100):
        result = RUNNER.invoke(main, ["receipt", "verify", "r1.json", "--json"])
        report = json.loads(result.stdout)
        steps = {step["name"]: step["ok"] for step in report["steps"]}
        if steps["inclusion"]:
            return steps
        time.sleep(0.2)
    raise AssertionError("the node posted no batch")


def test_channel_withdraw__two_steps__pays_out_after_the_thaw(run: Run, stack: Stack) -> None:
    node = stack.nodes[0].address
    run("channel", "fund", node, "1")
    thawing = run("channel", "withdraw", node, "0.25").stdout
    assert "0.25 TEST are thawing" in thawing
    assert "run this again then" in run("channel", "withdraw", node, code=2).stderr
    stack.chain.increase_time(121)
    assert "withdrew 0.25 TEST; 0.75 TEST are left" in run("channel", "withdraw", node).stdout
    run("channel", "withdraw", node, "0.25")
    assert "called off" in run("channel", "withdraw", node, "--cancel").stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("channel", "fund", "NODE", "1.5e-30"), 2, "not an amount"),
        (("channel", "fund", "NODE", "-1"), 2, "No such option"),
        (("channel", "fund", "0x" + "12" * 20, "1"), 2, "not a registered node"),
        (("channel", "fund", "NODE", "1000000"), 2, "cannot deposit"),
        (("infer", "nobody/x", "--input", "-"), 2, "neither an address nor an account"),
        (("infer", "a b/c/d", "--input", "-"), 2, "no model reference"),
        (("receipt", "show", "missing.json"), 2, "no receipt file"),
        (("receipt", "show", "0x" + "00" * 32), 2, "give its file"),
        (("network", "--no-api"), 5, "ASSAY_API_URL"),
        (("network",), 3, "cannot be reached"),
        (("model", "show", "nothing"), 2, "nobody registered it"),
    ],
)
def test_commands__wrong_use__one_line_with_its_exit_code(
    run: Run, stack: Stack, args: tuple[str, ...], code: int, words: str
) -> None:
    filled = [stack.nodes[0].address if arg == "NODE" else arg for arg in args]
    result = run(*filled, code=code, input="[1]")
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_model__init_to_show__publishes_once(run: Run, stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(linear_model(3, 2, seed=5))
    run("model", "init", "mine", "--onnx", "m.onnx", "--royalty-bps", "250")
    assert (tmp_path / "MODEL_CARD.md").exists()
    pushed = loads(run("model", "push", "--json"))
    assert all((tmp_path / "hub").rglob(digest) for digest in pushed.values())

    first = loads(run("model", "publish", "--json"))
    assert (first["number"], first["published"], len(first["transactions"])) == (1, True, 2)
    again = loads(run("model", "publish", "--json"))
    assert again == {"reference": first["reference"], "number": 1, "published": False}
    asked = run("model", "publish", "--force", input="y\n")
    assert "gas" in asked.stdout
    assert "@2" in asked.stdout

    (row,) = [row for row in loads(run("model", "list", "--json")) if row["name"] == "mine"]
    assert row["versions"] == 2
    data = loads(run("model", "show", first["reference"], "--json"))
    assert data["versions"][0]["royalty_bps"] == 250
    assert data["versions"][0]["artifact"] == first["artifact"]
    assert "active" in run("model", "show", "mine").stdout


def test_model_publish__in_the_profile__puts_the_root_on_chain(
    run: Run, stack: Stack, tmp_path: Path
) -> None:
    model, root = convolution_model(seed=3), lower(convolution_model(seed=3)).root
    (tmp_path / "m.onnx").write_bytes(model)
    run("model", "init", "exact", "--onnx", "m.onnx")
    first = loads(run("model", "publish", "--exact", "--program-root", "0x" + root.hex(), "--json"))
    assert (first["program_root"], first["assurance"]) == ("0x" + root.hex(), "exact")
    models = ModelRegistry(stack.rpc, stack.deployment)
    version = models.version(Hash32(bytes.fromhex(first["version_id"][2:])))
    assert (version.program_root, version.has_program) == (root, True)
    (shown,) = loads(run("model", "show", first["reference"], "--json"))["versions"]
    assert (shown["assurance"], shown["program_root"]) == ("exact", "0x" + root.hex())
    assert "exact" in run("model", "show", "exact").stdout

    manifest = HubClient(tmp_path / "hub").read(Hash32(bytes.fromhex(first["manifest_hash"][2:])))
    self_test = HubClient(tmp_path / "hub").read(Manifest.from_bytes(manifest).self_test)
    vectors = parse_self_test(self_test, first["artifact"][2:])
    assert len(vectors) == 10
    for vector in vectors:
        (array,) = vector.arrays(Manifest.from_bytes(manifest).inputs)
        assert commit_tensors(evaluate(lower(model), [array])) == vector.output_hash


def test_model_publish__signed_only__leaves_the_root_out_and_is_another_version(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(convolution_model(seed=4))
    run("model", "init", "plain", "--onnx", "m.onnx")
    first = loads(run("model", "publish", "--signed-only", "--json"))
    assert (first["program_root"], first["assurance"]) == (None, "signed")
    second = loads(run("model", "publish", "--json"))
    assert (second["number"], second["assurance"]) == (2, "exact")
    assert loads(run("model", "publish", "--json"))["published"] is False


def test_model_publish__outside_the_profile__says_so_and_is_signed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(linear_model(3, 2, seed=6))
    run("model", "init", "floating", "--onnx", "m.onnx")
    refused = run("model", "publish", "--exact", "--json", code=2)
    assert loads(refused)["code"] == "model_not_exact"
    result = run("model", "publish", "--yes")
    words = " ".join(result.stderr.split())
    assert "outside the exact profile" in words and "Gemm" in words and "model check" in words
    assert "assurance signed, no program root" in result.stdout


@pytest.mark.parametrize(
    ("line", "options", "code", "words"),
    [
        ("", ("--program-root", "0x" + "11" * 32), 2, "lowers to program root"),
        ("", ("--program-root", "0x" + "11" * 32, "--signed-only"), 2, "exclude each other"),
        (f'program_root = "0x{"22" * 32}"', (), 5, "states program_root"),
        (f'manifest_hash = "0x{"33" * 32}"', (), 5, "states manifest_hash"),
    ],
)
def test_model_publish__root_or_manifest_that_does_not_follow__is_refused(
    run: Run, tmp_path: Path, line: str, options: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(convolution_model(seed=5))
    run("model", "init", "wrong", "--onnx", "m.onnx")
    config = tmp_path / "model.toml"
    config.write_text(line + "\n" + config.read_text())
    result = run("model", "publish", "--yes", *options, code=code)
    assert words in " ".join(result.stderr.split())


def test_model_publish__self_test_that_the_evaluator_does_not_confirm__is_refused(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(convolution_model(seed=6))
    run("model", "init", "lying", "--onnx", "m.onnx")
    path = tmp_path / "self_test.json"
    document = json.loads(path.read_text())
    document["vectors"][0]["output_hash"] = "0x" + "44" * 32
    path.write_text(json.dumps(document))
    result = run("model", "publish", "--yes", code=8)
    assert "self-test vector 1" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no onnx at all", "not an ONNX model"), ("random", "RandomUniformLike")],
)
def test_model_init__file_that_no_node_would_serve__refused_early(
    run: Run, tmp_path: Path, content: bytes | str, words: str
) -> None:
    from onnx import helper

    if content == "random":
        node = helper.make_node("RandomUniformLike", ["x"], ["y"])
        content = build_model([node], [value("x", [1, 2])], [value("y", [1, 2])]).SerializeToString()
    assert isinstance(content, bytes)
    (tmp_path / "bad.onnx").write_bytes(content)
    result = run("model", "init", "bad", "--onnx", "bad.onnx", code=8)
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "model.toml").exists()
