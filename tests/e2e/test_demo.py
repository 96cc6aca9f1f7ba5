"""`scripts/demo` on a small number of rows, left running, used as a newcomer would, and ended with Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from assay.chain.keys import create_keystore

from scripts.training.datasets import load_digits_split

ROOT = Path(__file__).resolve().parents[2]
ASSAY = Path(sys.executable).parent / "assay"
ROWS = 30
PATIENCE_SECONDS = 500
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(PATIENCE_SECONDS + 100)]


@dataclass
class RunningDemo:
    process: subprocess.Popen[bytes]
    report: dict[str, Any]
    folder: Path

    def assay(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """An `assay` command against the running system."""
        urls = self.report["urls"]
        environment = os.environ | {
            "ASSAY_RPC_URLS": json.dumps([urls["chain"]]),
            "ASSAY_DEPLOYMENTS": str(self.folder / "deployments"),
            "ASSAY_HUB_URL": urls["hub"],
            "ASSAY_API_URL": urls["api"],
            **settings,
        }
        command = [str(ASSAY), *arguments]
        return subprocess.run(
            command,
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def as_person(self, name: str) -> dict[str, str]:
        return {
            "ASSAY_ACCOUNT": str(self.folder / "keys" / f"{name}.json"),
            "ASSAY_PASSWORD_FILE": str(self.folder / "keys" / f"{name}.password"),
            "ASSAY_DATA": str(self.folder / name),
        }


def start_demo(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scripts.demo_parts", "--folder", str(folder), *options]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return children


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    folder = tmp_path_factory.mktemp("demo")
    report = folder / "report.json"
    process = start_demo(folder / "run", "--limit", str(ROWS), "--keep", "--report", str(report))
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not report.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(0.5)  # the file is small: it is whole by now
        assert report.exists(), f"no report; {process.poll()=}"
        yield RunningDemo(process, json.loads(report.read_text()), folder / "run")
    finally:
        end(process)


def test_demo__report__says_that_everything_checks(demo: RunningDemo) -> None:
    report = demo.report
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert report["ok"] is True
    assert len(report["checks"]) >= 10
    receipts = report["receipts"]
    assert receipts["issued"] - receipts["void"] == receipts["checked"] >= 3 * ROWS
    assert 0 < receipts["verified"] < receipts["checked"]
    assert receipts["lost"] == receipts["doubled"] == 0
    assert report["accuracy"] >= 0.85
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert report["gas"]["per_receipt"] > 0


def test_demo__cheating_node__loses_stake_over_one_element(demo: RunningDemo) -> None:
    (fraud,) = demo.report["frauds"]
    assert demo.report["receipts"]["void"] == 1
    assert re.search(r"claimed element \d+ of \S+ is \S+; it is \S+", fraud["sentence"])
    assert int(fraud["slashed"]) == int(fraud["to_challenger"]) + int(fraud["to_treasury"]) > 0
    shown = demo.assay("dispute", "list", "--json")
    assert shown.returncode == 0, shown.stderr


def test_demo__signed_receipts__are_not_called_verified_by_the_network(demo: RunningDemo) -> None:
    shown = demo.assay("network", "--json")
    assert shown.returncode == 0, shown.stderr
    figures = json.loads(shown.stdout)
    receipts = demo.report["receipts"]
    assert figures["verified_inferences"] == receipts["verified"]
    assert figures["settled_inferences"] == receipts["issued"] - receipts["void"]
    assert "signature" in demo.report["receipts"]["note"]


def test_demo__paid_answer_after_the_demo__leaves_a_receipt_that_checks(
    demo: RunningDemo, tmp_path: Path
) -> None:
    split = load_digits_split()
    np.save(tmp_path / "digit.npy", split.held_out_inputs[:1].astype(np.float32))
    model = f"{demo.report['addresses']['publisher']}/digits"
    asked = demo.assay(
        "infer", model, "--input", str(tmp_path / "digit.npy"), "--json", **demo.as_person("alice")
    )
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert int(np.argmax(answer["outputs"]["logits"])) == split.held_out_labels[0]
    digest = answer["receipt"]["digest"]
    checked = demo.assay("receipt", "verify", digest, "--json", **demo.as_person("alice"))
    steps = {step["name"]: step["ok"] for step in json.loads(checked.stdout)["steps"]}
    assert steps["signature"] is steps["signer"] is steps["version"] is True
    assert steps["finality"] is not False


def test_demo__consumer_without_escrow__is_refused_with_the_cure(demo: RunningDemo, tmp_path: Path) -> None:
    create_keystore(tmp_path / "poor.json", "password", scrypt_n=2)
    (tmp_path / "password").write_text("password")
    np.save(tmp_path / "digit.npy", np.zeros((1, 1, 8, 8), np.float32))
    model = f"{demo.report['addresses']['publisher']}/digits"
    asked = demo.assay(
        "infer",
        model,
        "--input",
        str(tmp_path / "digit.npy"),
        ASSAY_ACCOUNT=str(tmp_path / "poor.json"),
        ASSAY_PASSWORD_FILE=str(tmp_path / "password"),
        ASSAY_DATA=str(tmp_path),
    )
    assert asked.returncode != 0
    assert "assay channel fund" in asked.stderr


def test_demo__ctrl_c__ends_every_process(demo: RunningDemo) -> None:
    children = descendants(demo.process)
    assert len(children) >= 6
    end(demo.process)
    assert demo.process.returncode == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_demo__ctrl_c_in_the_middle__ends_every_process_and_says_so(tmp_path: Path) -> None:
    process = start_demo(tmp_path / "run", "--limit", str(ROWS))
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "logs" / "deploy.log").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        children = descendants(process)
        assert children
    finally:
        end(process)
    assert process.returncode == 130
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_demo__folder_in_use__is_refused(tmp_path: Path) -> None:
    process = start_demo(tmp_path)
    assert process.wait(60) == 2
