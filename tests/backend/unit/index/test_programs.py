"""Programs recomputed from the hub's artifacts: what is kept, what is tried again."""

from __future__ import annotations

import errno
import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from assay.db.engine import open_engine, read_session, upgrade, write_transaction
from assay.db.tables import ProgramCheck, Version
from assay.disk import DiskFullError
from assay.exact.lowering import lower
from assay.hub.client import HubClient
from assay.index.programs import DAY, FIRST_WAIT, NEVER, ProgramChecker
from assay.programs.bounded import DEFAULT_LIMITS, LoweringLimits
from sqlalchemy import Engine, insert
from structlog.testing import capture_logs

from tests.support.onnx_models import convolution_model, linear_model


@dataclass
class Setting:
    engine: Engine
    hub: Path
    now: float = 1_000.0
    versions: list[str] = field(default_factory=list)

    def add(self, artifact: bytes, assurance: str = "exact", *, pushed: bool = True) -> str:
        """A version that claims a program; its artifact's digest."""
        if pushed:
            HubClient(self.hub).put(artifact)
        digest, number = "0x" + hashlib.sha256(artifact).hexdigest(), len(self.versions)
        self.versions.append(digest)
        texts = {"model_id": "0x" + "aa" * 32, "manifest_hash": "0x" + "bb" * 32, "uri": "", "status": 1}
        row = {"version_id": f"0x{number:064x}", "artifact": digest, "assurance": assurance, **texts}
        numbers = {"number": 1, "royalty_bps": 0, "published_at": 0, "block_number": number, "log_index": 0}
        with write_transaction(self.engine) as connection:
            connection.execute(insert(Version).values(program_root="0x" + "07" * 32, **row, **numbers))
        return digest

    def step(self, limits: LoweringLimits = DEFAULT_LIMITS) -> int:
        return ProgramChecker(self.engine, self.hub, limits, clock=lambda: self.now).step()

    def check(self, artifact: str) -> ProgramCheck:
        with read_session(self.engine) as session:
            row = session.get(ProgramCheck, artifact)
        assert row is not None
        return row


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite3'}")
    upgrade(engine)
    yield Setting(engine, tmp_path / "hub")
    engine.dispose()


def test_step__model_of_the_profile__is_lowered_once_for_good(setting: Setting) -> None:
    model = convolution_model()
    digest = setting.add(model)
    setting.add(model)
    assert (setting.step(), setting.step()) == (1, 0)
    found = setting.check(digest)
    assert (found.outcome, found.program_root) == ("lowered", "0x" + lower(model).root.hex())
    assert found.next_attempt_at == NEVER


def test_step__version_without_a_program__is_not_looked_at(setting: Setting) -> None:
    setting.add(convolution_model(), "signed")
    assert setting.step() == 0


def test_step__outside_the_profile__is_looked_at_again_after_a_day(setting: Setting) -> None:
    digest = setting.add(linear_model())
    assert setting.step() == 1
    found = setting.check(digest)
    assert (found.outcome, found.program_root) == ("outside", None) and "Gemm" in found.reason
    assert found.next_attempt_at == setting.now + DAY
    setting.now += DAY
    assert setting.step() == 1


def test_step__artifact_pushed_later__is_tried_again_with_growing_waits(setting: Setting) -> None:
    model = convolution_model()
    digest = setting.add(model, pushed=False)
    for attempt, wait in enumerate((FIRST_WAIT, 2 * FIRST_WAIT), start=1):
        assert setting.step() == 1
        found = setting.check(digest)
        assert (found.outcome, found.attempts) == ("unavailable", attempt)
        assert found.next_attempt_at == setting.now + wait
        assert setting.step() == 0, "not before its time"
        setting.now += wait
    HubClient(setting.hub).put(model)
    assert setting.step() == 1
    assert setting.check(digest).outcome == "lowered"


def test_step__hub_gives_other_bytes__is_unavailable(setting: Setting) -> None:
    digest = setting.add(convolution_model())
    (setting.hub / "sha256" / digest[2:]).write_bytes(convolution_model(seed=1))
    setting.step()
    assert "other bytes" in setting.check(digest).reason


@pytest.mark.network
def test_step__hub_gone__is_unavailable_and_names_no_address(setting: Setting) -> None:
    digest = setting.add(convolution_model())
    ProgramChecker(setting.engine, "http://user:secret@127.0.0.1:9").step()
    found = setting.check(digest)
    assert found.outcome == "unavailable" and "127.0.0.1" not in found.reason


def test_step__beyond_the_limits__is_tried_again(setting: Setting) -> None:
    digest = setting.add(convolution_model())
    setting.step(LoweringLimits(seconds=0))
    found = setting.check(digest)
    assert (found.outcome, found.next_attempt_at) == ("failed", setting.now + FIRST_WAIT)


def test_step__told_to_stop__records_nothing(setting: Setting) -> None:
    setting.add(convolution_model())
    checker = ProgramChecker(setting.engine, setting.hub)
    assert checker.step(should_stop=lambda: True) == 0


def test_step__no_room_for_the_artifact__is_the_index_s_own_fault_and_tried_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, other = setting.add(convolution_model()), setting.add(linear_model())

    def look(_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched, capture_logs() as lines:
        patched.setattr("assay.hub.client.check_room", look)
        assert setting.step() == 2
    for artifact in (digest, other):
        found = setting.check(artifact)
        assert (found.outcome, found.reason) == ("unavailable", "the index's disk has no room for it")
    (told, *_) = [line for line in lines if line["log_level"] == "error"]
    assert "no room in" in told["error"] and "free some" in told["error"]
    setting.now += FIRST_WAIT
    assert setting.step() == 2
    assert setting.check(digest).outcome == "lowered"


def test_step__no_room_for_a_folder__is_told_as_such_and_tried_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = setting.add(convolution_model())

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "mkdtemp", full)
        with pytest.raises(DiskFullError, match=f"no room in {re.escape(tempfile.gettempdir())}: "):
            setting.step()
    assert setting.step() == 1
    assert setting.check(digest).outcome == "lowered"
