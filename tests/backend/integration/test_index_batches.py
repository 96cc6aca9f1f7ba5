"""Batches fetched from nodes that serve them well, badly or not at all."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from assay.commitments.receipts import receipt_digest
from assay.db.engine import read_session, write_transaction
from assay.db.repositories.batches import ReceiptFilter, list_receipts
from assay.db.repositories.checks import WRITING, CheckStore, PendingBatch, StoredReceipt
from assay.db.repositories.paging import PageRequest
from assay.db.tables import BatchCheck, Receipt
from assay.disk import DiskFullError
from assay.index.batches import MAX_GAP_WAITS, NEVER, BatchChecker, Verdict, _stored, compare_neighbours
from assay.index.download import Limits, go_on
from assay.index.places import PLACES
from assay.types import Hash32, SignedReceipt
from sqlalchemy import Engine, delete, func, select

from tests.support.batch_server import (
    BatchServer,
    Held,
    batch_server,
    body_of,
    dripping,
    flooding,
    paced,
    redirecting,
)
from tests.support.index_tables import check_batches, follow, new_database, new_follower, url_of
from tests.support.index_world import PostedBatch, TestNode, World, index_world

LIMITS = Limits(bytes=1 << 20, seconds=1.0, allow_private=True)


@dataclass
class Setting:
    world: World
    server: BatchServer
    engine: Engine
    node: TestNode
    version: Hash32
    now: float = 2_000_000_000.0

    def index(self) -> None:
        follow(new_follower(self.engine, self.world.rpc, self.world.deployment))

    def check(self, rounds: int = 1, limits: Limits = LIMITS) -> None:
        checker = self.checker(limits)
        for _ in range(rounds):
            check_batches(checker)
            self.now += 6 * 3600

    def checker(self, limits: Limits = LIMITS) -> BatchChecker:
        return BatchChecker(self.engine, self.world.deployment.domain, limits, clock=lambda: self.now)

    def state(self, batch: PostedBatch) -> tuple[str, str, int]:
        with read_session(self.engine) as session:
            row = session.get(BatchCheck, batch.batch_id)
            stored = session.scalar(
                select(func.count()).select_from(Receipt).where(Receipt.batch_id == batch.batch_id)
            )
        assert row is not None
        return row.availability, row.reason, stored or 0

    def checked(self) -> int:
        with read_session(self.engine) as session:
            return session.scalar(select(func.count()).select_from(BatchCheck)) or 0

    def published(self) -> list[int]:
        """Positions, as the API lists them."""
        with read_session(self.engine) as session:
            found = list_receipts(session, ReceiptFilter(), PageRequest(200))
        return [receipt.position for receipt in found.items]

    def serve(self, consumer: int = 1, count: int = 3, publish: bool = True) -> PostedBatch:
        batch = self.world.serve(self.node, self.version, self.world.consumer(consumer), count)
        if publish:
            self.server.publish(batch.batch_id, batch.body)
        return batch

    def resign(self, signed: SignedReceipt, **changes: int) -> SignedReceipt:
        receipt = replace(signed.receipt, **changes)  # type: ignore[arg-type]
        digest = receipt_digest(self.world.deployment.domain, receipt)
        return SignedReceipt(receipt, self.node.signer.sign(digest))

    def post(self, receipts: list[SignedReceipt], acknowledged: int = 0) -> PostedBatch:
        vouchers = []
        if acknowledged:
            consumer = self.world.consumer(1)
            vouchers = [self.world.voucher(self.node, self.version, consumer, 0, acknowledged)]
        batch = self.world.post(self.node, self.version, receipts, vouchers)
        self.server.publish(batch.batch_id, batch.body)
        return batch


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with index_world(tmp_path) as world, batch_server() as server:
        version = world.publish()
        node = world.add_node(server.url, {version: 10})
        yield Setting(world, server, new_database(tmp_path), node, version)


def test_step__honest_batches_of_two_consumers__are_available(setting: Setting) -> None:
    batches = [setting.serve(1, 3), setting.serve(2, 1), setting.serve(1, 2)]
    setting.index()
    setting.check()
    assert [setting.state(batch) for batch in batches] == [("available", "", n) for n in (3, 1, 2)]


KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
from assay.db.engine import open_engine
from assay.db.repositories import checks
from assay.index import batches
from assay.index.batches import BatchChecker
from assay.index.download import Limits, go_on
from assay.types import Address, Domain
from sqlalchemy import event

url, chain_id, settlement, folder, survive = sys.argv[1:]
checks.ROWS, engine, written = 2, open_engine(url), []
@event.listens_for(engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if statement.startswith("INSERT INTO receipts"):
        written.append(statement)
        if len(written) > int(survive):
            os.kill(os.getpid(), signal.SIGKILL)
limits = Limits(allow_private=True)
checker = BatchChecker(engine, Domain(int(chain_id), Address(settlement)), limits, folder=Path(folder))
while checker.step(wait=1.0) or checker.is_busy:
    pass
"""


def test_step__killed_halfway_through_a_batch__leaves_nothing_and_checks_it_again(
    setting: Setting, tmp_path: Path
) -> None:
    batch = setting.serve(1, 7)
    setting.index()
    domain, spool = setting.world.deployment.domain, tmp_path / "spool"
    url = setting.engine.url.render_as_string(hide_password=False)
    for survive in (0, 2):
        arguments = [url, str(domain.chain_id), domain.settlement, str(spool), str(survive)]
        command = [sys.executable, "-c", KILLED_HALFWAY, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        with read_session(setting.engine) as session:
            assert session.get(BatchCheck, batch.batch_id) is None
            assert session.scalar(select(func.count()).select_from(Receipt)) == 0
        assert list(spool.iterdir()) == []
    setting.check()
    assert setting.state(batch) == ("available", "", 7)


def test_step__large_batch__is_written_in_parts_that_nobody_sees_before_the_last(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite nobody else could write meanwhile: neither the follower nor who notes that nodes answer."""
    monkeypatch.setattr("assay.index.batches.PART", 3)
    batch = setting.serve(1, 7)
    setting.index()
    follower = new_follower(setting.engine, setting.world.rpc, setting.world.deployment)
    parts, add = list[int](), CheckStore.add

    def add_and_look(store: CheckStore, *given: Any) -> None:
        if parts:
            assert setting.state(batch) == ("unchecked", WRITING, sum(parts))
            assert setting.published() == []
        add(store, *given)
        parts.append(len(given[1]))

    def read_beside(signed: Iterator[StoredReceipt]) -> Iterator[StoredReceipt]:
        for stored in signed:
            follower.step()  # writes
            yield stored

    monkeypatch.setattr(CheckStore, "add", add_and_look)
    monkeypatch.setattr("assay.index.batches._stored", lambda found: read_beside(_stored(found)))
    setting.check()
    assert parts == [3, 3, 1]
    assert setting.state(batch) == ("available", "", 7)
    assert setting.published() == [6, 5, 4, 3, 2, 1, 0]


def test_step__killed_between_parts__removes_what_was_written_and_begins_anew(
    setting: Setting, tmp_path: Path
) -> None:
    """What is left does not stand in the way of others: another node publishes the same receipts."""
    batch = setting.serve(1, 7)
    setting.index()
    domain = setting.world.deployment.domain
    arguments = [
        url_of(setting.engine),
        str(domain.chain_id),
        domain.settlement,
        str(tmp_path / "spool"),
        "1",
    ]
    code = KILLED_HALFWAY.replace("checks.ROWS, ", "batches.PART, ")
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert setting.state(batch) == ("unchecked", WRITING, 2)
    assert setting.published() == []
    small = setting.serve(2, 1)
    setting.index()
    setting.checker()._clear(go_on)
    with read_session(setting.engine) as session:
        assert session.scalar(select(func.count()).select_from(Receipt)) == 0
    setting.check()
    assert [setting.state(one) for one in (batch, small)] == [("available", "", 7), ("available", "", 1)]


def test_step__reorg_between_parts__leaves_the_batch_for_another_time(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is posted again in the same place, so that it cannot be told by where it is."""
    monkeypatch.setattr("assay.index.batches.PART", 2)
    batch = setting.serve(1, 7)
    setting.index()
    taken = list[int]()

    def take_away(signed: Iterator[StoredReceipt]) -> Iterator[StoredReceipt]:
        for position, stored in enumerate(signed):
            if position == 6 and not taken:
                taken.append(position)
                with write_transaction(setting.engine) as connection:
                    connection.execute(delete(BatchCheck))
                    connection.execute(delete(Receipt))
            yield stored

    monkeypatch.setattr("assay.index.batches._stored", lambda found: take_away(_stored(found)))
    setting.checker()._turn(int(setting.now), 20, setting.node.operator, go_on)
    assert taken
    assert setting.checked() == 0
    setting.check()
    assert setting.state(batch) == ("available", "", 7)


def test_step__stopped_halfway__says_nothing_of_the_batch(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay.index.batch_file.CHUNK", 2)
    batch = setting.serve(1, 5)
    setting.index()
    stopped = 0
    while True:
        looks = iter([False] * stopped)
        check_batches(setting.checker(), lambda: next(looks, True))  # noqa: B023
        if setting.checked():
            break
        stopped += 1
    assert stopped > 5  # at as many places: before and amid the download, the check and the writing
    assert setting.state(batch) == ("available", "", 5)


def test_step__slow_but_steady_node__is_given_its_time(setting: Setting) -> None:
    """A stream that is slower than the limits' pace is cut off, one that keeps it is not."""
    batch = setting.serve(1, 40, publish=False)
    setting.server.answers[f"/v1/batches/{batch.batch_id}"] = paced(batch.body, seconds=2.0)
    setting.index()
    hasty = replace(LIMITS, seconds=0.5)
    setting.check(limits=hasty)
    assert setting.state(batch)[0] == "unavailable"
    setting.check(limits=replace(hasty, bytes_per_second=len(batch.body) // 10))
    assert setting.state(batch) == ("available", "", 40)


def test_step__burst_then_nothing__is_given_up_as_soon_as_silence(setting: Setting) -> None:
    """What came fast is no credit for a wait."""
    batch = setting.serve(1, 40, publish=False)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(batch.body)))
        handler.end_headers()
        handler.wfile.write(batch.body[:-1])
        handler.wfile.flush()
        time.sleep(5)

    setting.server.answers[f"/v1/batches/{batch.batch_id}"] = answer
    setting.index()
    started = time.monotonic()
    setting.check(limits=replace(LIMITS, seconds=0.5, bytes_per_second=len(batch.body) // 10))
    assert setting.state(batch)[0] == "unavailable"
    assert time.monotonic() - started < 3


def test_step__stopped_amid_a_download__ends_at_once(setting: Setting) -> None:
    batch = setting.serve(1, 40, publish=False)
    setting.server.answers[f"/v1/batches/{batch.batch_id}"] = paced(batch.body, seconds=5.0)
    setting.index()
    checker, started = setting.checker(replace(LIMITS, seconds=30)), time.monotonic()
    check_batches(checker, lambda: time.monotonic() > started + 0.2)
    assert time.monotonic() - started < 3
    with read_session(setting.engine) as session:
        assert session.get(BatchCheck, batch.batch_id) is None


def test_step__nodes_that_drip_their_batches__hold_nobody_up(setting: Setting) -> None:
    """Each keeps the pace, and could go on for half an hour."""
    held = []
    for _ in range(PLACES - 1):
        batch = setting.serve(1, 2, publish=False)
        answer = setting.server.answers[f"/v1/batches/{batch.batch_id}"] = Held(batch.body)
        held.append((batch, answer))
        setting.node = setting.world.add_node(setting.server.url, {setting.version: 10})
    quick = [setting.serve(1, 1), setting.serve(1, 1)]
    setting.index()
    checker, deadline = setting.checker(replace(LIMITS, seconds=60.0)), time.monotonic() + 60
    while not all(answer.asked.is_set() for _, answer in held) or setting.checked() < len(quick):
        assert time.monotonic() < deadline
        checker.step(wait=0.1)
    assert [setting.state(batch)[0] for batch in quick] == ["available"] * len(quick)
    for _, answer in held:
        answer.let.set()
    check_batches(checker)
    assert [setting.state(batch) for batch, _ in held] == [("available", "", 2)] * len(held)


def test_step__large_batches__are_checked_one_at_a_time_and_small_ones_meanwhile(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = [setting.serve(1, 9)]
    setting.node = setting.world.add_node(setting.server.url, {setting.version: 10})
    large.append(setting.serve(1, 9))
    setting.node = setting.world.add_node(setting.server.url, {setting.version: 10})
    small = setting.serve(1, 1)
    setting.index()
    monkeypatch.setattr("assay.index.batches.LARGE", 2 * len(small.body))
    checker, let, checking = setting.checker(), threading.Event(), list[str]()
    check = checker._check

    def check_slowly(batch: PendingBatch, *given: Any) -> Verdict:
        checking.append(batch.batch_id)
        assert batch.batch_id == small.batch_id or let.wait(60)
        return check(batch, *given)

    monkeypatch.setattr(checker, "_check", check_slowly)
    deadline = time.monotonic() + 60
    while len(setting.server.asked) < 3 or not setting.checked():
        assert time.monotonic() < deadline
        checker.step(wait=0.1)
    assert setting.state(small)[0] == "available"
    assert len(checking) == 2  # the small one, and one of the large
    let.set()
    check_batches(checker)
    assert [setting.state(batch) for batch in large] == [("available", "", 9)] * 2


def test_step__batches_of_several_nodes__are_written_one_after_another(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is compared with what others wrote: a receipt in two batches is seen, whichever comes first."""
    batches = []
    for _ in range(PLACES):
        batches.append(setting.serve(1, 3))
        setting.node = setting.world.add_node(setting.server.url, {setting.version: 10})
    setting.index()
    writing, most = list[str](), list[int]()

    def compare_slowly(store: CheckStore, batch: PendingBatch, verdict: Verdict) -> Verdict:
        writing.append(batch.batch_id)
        time.sleep(0.05)
        most.append(len(writing))
        writing.remove(batch.batch_id)
        return compare_neighbours(store, batch, verdict)

    monkeypatch.setattr("assay.index.batches.compare_neighbours", compare_slowly)
    setting.check()
    assert most == [1] * PLACES
    assert [setting.state(batch) for batch in batches] == [("available", "", 3)] * PLACES


def test_step__disk_is_full__is_told_as_such_and_nobody_is_blamed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = setting.serve(1, 3)
    setting.index()
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: PTH123, SIM115
        with pytest.raises(DiskFullError, match=r"no room in .*; free some"):
            setting.check()
    with read_session(setting.engine) as session:
        assert session.get(BatchCheck, batch.batch_id) is None
    setting.check()
    assert setting.state(batch) == ("available", "", 3)


def test_step__batch_that_the_disk_has_no_room_for__lets_others_go_first(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = setting.serve(1, 40)
    setting.node = setting.world.add_node(setting.server.url, {setting.version: 10})
    small = setting.serve(2, 1)
    setting.index()
    checker = setting.checker()

    def look(file: BinaryIO) -> None:
        if file.tell() > 4_000:
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("assay.index.download.check_room", look)
    deadline = time.monotonic() + 60
    while not setting.checked():
        assert time.monotonic() < deadline
        with pytest.raises(DiskFullError):
            check_batches(checker)
    assert setting.state(small) == ("available", "", 1)
    monkeypatch.undo()
    check_batches(checker)
    assert setting.state(large) == ("available", "", 40)


Spoil = Callable[[PostedBatch], bytes]


def _without_last(batch: PostedBatch) -> bytes:
    return b"\n".join([_header(batch, count=2), *batch.lines[1:-1]])


def _header(batch: PostedBatch, **changes: object) -> bytes:
    return json.dumps({**json.loads(batch.lines[0]), **changes}).encode()


def _swapped(batch: PostedBatch) -> bytes:
    return b"\n".join([batch.lines[0], batch.lines[2], batch.lines[1], batch.lines[3]])


def _repeated(batch: PostedBatch) -> bytes:
    return b"\n".join([batch.lines[0], batch.lines[1], batch.lines[1], batch.lines[3]])


def _field(name: str, value: object) -> Spoil:
    def spoil(batch: PostedBatch) -> bytes:
        line = json.dumps({**json.loads(batch.lines[1]), name: value}).encode()
        return b"\n".join([batch.lines[0], line, *batch.lines[2:]])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "step"),
    [
        (_without_last, "root"),
        (_swapped, "root"),
        (_repeated, "duplicate"),
        (_field("price", "11"), "receipt"),
        (_field("signature", "0x" + "01" * 64 + "1b"), "signer"),
        (_field("signature", "0x" + "00" * 64 + "1b"), "signature"),
        (_field("signature", "0x" + "ff" * 64 + "1b"), "signature"),
        (_field("sequence", 2**80), "receipt"),
        (_field("node", "x"), "receipt"),
        (lambda batch: _header(batch, count=4) + b"\n" + b"\n".join(batch.lines[1:]), "count"),
        (lambda batch: _header(batch, node="0x00") + b"\n" + b"\n".join(batch.lines[1:]), "header"),
        (lambda batch: b"", "format"),
        (lambda batch: batch.lines[0], "format"),
        (lambda batch: b"\xff\xfe\n\x00", "format"),
        (lambda batch: b"[" * 4000 + b"\n" + b"[" * 4000, "format"),
        (lambda batch: batch.lines[0] + b"\n" + b" " * 5000 + b"{}", "count"),
        (lambda batch: b"{" + b" " * 5000 + b"}\n{}", "format"),
    ],
)
def test_step__wrong_batch_data__is_inconsistent_and_stores_nothing(
    setting: Setting, spoil: Spoil, step: str
) -> None:
    batch = setting.serve(publish=False)
    setting.server.publish(batch.batch_id, spoil(batch))
    setting.index()
    setting.check()
    availability, reason, stored = setting.state(batch)
    assert (availability, reason.partition(":")[0], stored) == ("inconsistent", step, 0)


def test_step__wrong_file_mended_later__becomes_available(setting: Setting) -> None:
    batch = setting.serve(publish=False)
    setting.server.publish(batch.batch_id, b"\n".join(batch.lines[:-1]))
    setting.index()
    setting.check()
    assert setting.state(batch)[0] == "inconsistent"
    setting.server.publish(batch.batch_id, batch.body)
    setting.check()
    assert setting.state(batch) == ("available", "", 3)


def test_step__batch_with_gap_in_itself__is_inconsistent_for_good(setting: Setting) -> None:
    one, _, three = setting.world.receipts(
        setting.node, setting.version, setting.world.consumer(1).address, 3
    )
    batch = setting.post([one, three])
    setting.index()
    setting.check()
    availability, reason, _ = setting.state(batch)
    assert (availability, "jump from 1 to 3" in reason) == ("inconsistent", True)
    with read_session(setting.engine) as session:
        assert session.scalars(select(BatchCheck.next_attempt_at)).one() == NEVER


def test_step__sequence_that_no_database_holds__is_inconsistent(setting: Setting) -> None:
    (one,) = setting.world.receipts(setting.node, setting.version, setting.world.consumer(1).address, 1)
    batch = setting.post([setting.resign(one, sequence=2**64 - 1)])
    setting.index()
    setting.check()
    assert setting.state(batch)[0] == "inconsistent"


def test_step__two_receipts_of_one_sequence__is_equivocation(setting: Setting) -> None:
    (one,) = setting.world.receipts(setting.node, setting.version, setting.world.consumer(1).address, 1)
    batch = setting.post([one, setting.resign(one, price=11)])
    setting.index()
    setting.check()
    assert "equivocation" in setting.state(batch)[1]


def test_step__gap_between_batches__waits_then_is_inconsistent(setting: Setting) -> None:
    consumer = setting.world.consumer(1).address
    one, _, three = setting.world.receipts(setting.node, setting.version, consumer, 3)
    first, second = setting.post([one]), setting.post([three])
    setting.index()
    setting.check()
    assert setting.state(first)[0] == "available"
    availability, reason, _ = setting.state(second)
    assert (availability, "receipts 2 to 2" in reason) == ("inconsistent", True)


def test_step__gap_filled_by_batch_posted_later__both_become_available(setting: Setting) -> None:
    consumer = setting.world.consumer(1).address
    one, two, three = setting.world.receipts(setting.node, setting.version, consumer, 3)
    late = setting.post([three])
    early = setting.post([one, two])
    setting.index()
    setting.check()
    assert setting.state(late)[0] == "unchecked"
    setting.check()
    assert {setting.state(late)[0], setting.state(early)[0]} == {"available"}


def test_step__two_batches_with_gaps__do_not_wait_for_each_other_for_ever(setting: Setting) -> None:
    consumer = setting.world.consumer(1).address
    receipts = setting.world.receipts(setting.node, setting.version, consumer, 9)
    batches = [setting.post([receipts[4]]), setting.post([receipts[8]])]
    setting.index()
    setting.check(MAX_GAP_WAITS + 2)
    assert "unchecked" not in {setting.state(batch)[0] for batch in batches}


def test_step__earlier_batch_unavailable__later_one_is_not_blamed(setting: Setting) -> None:
    first, second = setting.serve(count=2, publish=False), setting.serve(count=2)
    setting.index()
    setting.check(2)
    assert setting.state(first)[:1] + setting.state(second)[:1] == ("unavailable", "available")


def test_step__receipt_of_an_earlier_batch__is_a_duplicate(setting: Setting) -> None:
    receipts = setting.world.receipts(setting.node, setting.version, setting.world.consumer(1).address, 2)
    first, second = setting.post(receipts), setting.post(receipts[:1])
    setting.index()
    setting.check()
    assert setting.state(first)[0] == "available"
    assert "already in batch" in setting.state(second)[1]


def test_step__more_acknowledged_than_published__is_inconsistent(setting: Setting) -> None:
    receipts = setting.world.receipts(setting.node, setting.version, setting.world.consumer(1).address, 2)
    batch = setting.post(receipts, acknowledged=3)
    setting.index()
    setting.check()
    assert "acknowledged 3 inferences, 2 receipts" in setting.state(batch)[1]


def test_step__signed_by_rotated_key_after_its_time__is_inconsistent(setting: Setting) -> None:
    world, old = setting.world, setting.node.signer
    world.send(setting.node.operator, world.nodes.rotate_signer(world.key("new").address))
    world.chain.increase_time(5)
    batch = setting.serve(count=1)
    setting.index()
    setting.check()
    availability, reason, _ = setting.state(batch)
    assert availability == "inconsistent" and f"signed by {old.address}" in reason


def test_step__signed_by_old_key_while_it_was_valid__is_available(setting: Setting) -> None:
    world = setting.world
    receipts = world.receipts(setting.node, setting.version, world.consumer(1).address, 2)
    world.chain.increase_time(5)
    world.send(setting.node.operator, world.nodes.rotate_signer(world.key("new").address))
    batch = setting.post(receipts)
    setting.index()
    setting.check()
    assert setting.state(batch)[0] == "available"


def test_step__executed_in_the_future__is_inconsistent(setting: Setting) -> None:
    (one,) = setting.world.receipts(setting.node, setting.version, setting.world.consumer(1).address, 1)
    batch = setting.post([setting.resign(one, executed_at=2**64 - 1)])
    setting.index()
    setting.check()
    assert setting.state(batch)[1].startswith("time:")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "answered 404"),
        (body_of(b"", 500), "answered 500"),
        (dripping(10), "longer than 1 s"),
        (flooding(2 << 20), "larger than 1048576 bytes"),
        (redirecting("http://127.0.0.1:1/"), "answered 302"),
    ],
)
def test_step__node_that_does_not_give_the_data__is_unavailable_then_retried(
    setting: Setting, answer: object, reason: str
) -> None:
    batch = setting.serve(publish=False)
    if answer is not None:
        setting.server.answers[f"/v1/batches/{batch.batch_id}"] = answer  # type: ignore[assignment]
    setting.index()
    setting.check()
    availability, found, _ = setting.state(batch)
    assert availability == "unavailable" and reason in found
    setting.server.publish(batch.batch_id, batch.body)
    setting.check()
    assert setting.state(batch)[0] == "available"


def test_step__loopback_endpoint_when_private_is_not_allowed__is_never_asked(setting: Setting) -> None:
    batch = setting.serve()
    setting.index()
    setting.check(limits=replace(LIMITS, allow_private=False))
    assert "not a public address" in setting.state(batch)[1]
    assert setting.server.asked == []


@pytest.mark.parametrize(
    "endpoint", ["file:///etc/passwd", "ftp://x", "http://u:p@127.0.0.1", "http://[", "nonsense"]
)
def test_step__endpoint_that_is_no_http_url__is_unavailable(setting: Setting, endpoint: str) -> None:
    setting.world.send(setting.node.operator, setting.world.nodes.set_endpoint(endpoint))
    batch = setting.serve()
    setting.index()
    setting.check()
    assert setting.state(batch)[0] == "unavailable"


def test_follow__reorg_takes_a_checked_batch__its_receipts_and_check_go(setting: Setting) -> None:
    kept = setting.serve(count=1)
    setting.index()
    snapshot = setting.world.chain.snapshot()
    gone = setting.serve(count=2)
    setting.index()
    setting.check()
    assert setting.state(gone)[2] == 2
    setting.world.chain.revert(snapshot)
    setting.world.chain.increase_time(9)
    setting.world.chain.mine(5)
    setting.index()
    with read_session(setting.engine) as session:
        assert list(session.scalars(select(BatchCheck.batch_id))) == [kept.batch_id]
        assert set(session.scalars(select(Receipt.batch_id))) == {kept.batch_id}
