"""The tables filled by a real process beside this one: it is killed, told to end, given what does not fit."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from assay.errors import FatalError
from assay.node.receipts import import_child, import_process
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import ChannelKey, HeldVoucher, IssuedReceipt
from assay.node.receipts.import_child import ANSWER, HURRIED, LOWEST, MESSAGE, serve
from assay.node.receipts.import_process import ImportProcess
from assay.node.receipts.importing import Importer, LocalTables
from assay.node.receipts.imports import Imports
from assay.node.receipts.journal_entries import Entry, encode
from assay.node.receipts.journal_mark import Mark, read_mark
from assay.node.receipts.log import ReceiptLog
from assay.types import Address, Domain, Hash32
from structlog.testing import capture_logs

NODE = Address("0x" + "11" * 20)
KEY = ChannelKey(Hash32(b"\x01" * 32), Address("0x" + "22" * 20))
WAIT = 20.0


def entry(number: int) -> Entry:
    unique = number.to_bytes(32, "big")
    receipt = IssuedReceipt(unique, unique, unique, 5, number, 1_700_000_000, b"\x02" * 65)
    return Entry(KEY, receipt, HeldVoucher(5 * number, number - 1, b"\x03" * 65), unique)


def payload(*numbers: int) -> bytes:
    return b"".join(encode(entry(number)) for number in numbers)


def make_log(path: Path) -> Path:
    ReceiptLog(SqliteDatabase(path), Domain(31337, NODE), NODE).close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_log(tmp_path / "log.sqlite3")


@pytest.fixture
def tables(file: Path) -> Iterator[ImportProcess]:
    made = ImportProcess(file)
    yield made
    made.close()


def rows(file: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        receipts = connection.execute("SELECT * FROM receipts ORDER BY id").fetchall()
        return receipts + connection.execute("SELECT * FROM channels ORDER BY id").fetchall()


def is_there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def has_open(pid: int, file: Path) -> bool:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(link.readlink())
    return file in found


def stop(tables: ImportProcess) -> int:
    """Its child takes nothing and answers nothing from here on."""
    if tables.pid is None:
        tables.open(lambda: False)
    assert tables.pid is not None
    os.kill(tables.pid, signal.SIGSTOP)
    return tables.pid


def wait_briefly(tables: ImportProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the child that is there; the next one may take its time to start."""
    started = tables._start

    def start() -> subprocess.Popen[bytes]:
        monkeypatch.setattr(import_process, "HURRIED_SECONDS", WAIT)
        return started()

    monkeypatch.setattr(import_process, "HURRIED_SECONDS", 0.3)
    monkeypatch.setattr(tables, "_start", start)


def priorities(pid: int) -> list[int]:
    """Nice, by thread."""
    return [os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]


def policies(pid: int) -> list[int]:
    return [os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]


def test_take__hurried_or_not__leaves_what_filling_them_here_leaves(
    file: Path, tables: ImportProcess, tmp_path: Path
) -> None:
    tables.take(payload(1, 2), Mark(7, 1), hurried=False, synced=True)
    tables.take(payload(3), Mark(7, 2), hurried=True, synced=True)
    tables.take(
        payload(2, 3, 4), Mark(7, 3), hurried=False, synced=True
    )  # some of it again, as after a crash
    other = make_log(tmp_path / "other.sqlite3")
    with contextlib.closing(SqliteDatabase(other).open_file()) as here:
        LocalTables(Importer(here)).take(payload(1, 2, 3, 4), Mark(7, 3), hurried=True, synced=True)
        assert read_mark(here) == Mark(7, 3)
    with contextlib.closing(SqliteDatabase(file).open_file()) as connection:
        assert read_mark(connection) == Mark(7, 3)
    assert rows(file) == rows(other) and len(rows(file)) == 5


def test_take__child_was_killed__another_goes_on(file: Path, tables: ImportProcess) -> None:
    tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)
    for number in (2, 3):
        killed = tables.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        tables.take(payload(number), Mark(7, number), hurried=number == 3, synced=True)
        assert tables.pid != killed
    assert len(rows(file)) == 4


def test_take__child_never_comes_up__is_fatal_and_says_so(
    tables: ImportProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FatalError, match="failed 3 times: at last it ended with status 1"):
        tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)


def test_take__child_cannot_be_started__is_fatal_and_says_so(
    file: Path, tables: ImportProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)
    assert tables.pid is not None
    os.kill(tables.pid, signal.SIGKILL)
    monkeypatch.setattr(sys, "executable", str(file.parent / "none"))
    with pytest.raises(FatalError, match=r"cannot be started: .* the journal has everything"):
        tables.take(payload(2), Mark(7, 2), hurried=False, synced=True)


@pytest.mark.parametrize("size", [1, 2000])
def test_take__child_hangs__is_killed_and_another_goes_on(
    file: Path, tables: ImportProcess, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    hung = stop(tables)
    wait_briefly(tables, monkeypatch)
    many = payload(*range(1, size + 1))
    assert size == 1 or len(many) > 1 << 17  # more than a pipe takes
    with capture_logs() as lines:
        tables.take(many, Mark(7, 1), hurried=True, synced=True)
    assert tables.pid != hung and not is_there(hung)
    assert len(rows(file)) == size + 1
    (line,) = lines
    assert line["log_level"] == "warning" and "did not answer within 0.3 s" in line["event"]


def test_take__at_ease__may_take_long_until_it_is_wanted(
    file: Path, tables: ImportProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_process, "SLICE_SECONDS", 0.05)
    wanted = threading.Event()
    tables.open(wanted.is_set)
    hung = stop(tables)
    wait_briefly(tables, monkeypatch)
    taking = threading.Thread(
        target=tables.take, args=(payload(1), Mark(7, 1)), kwargs={"hurried": False, "synced": True}
    )
    taking.start()
    taking.join(1.0)
    assert taking.is_alive() and is_there(hung) and tables.pid == hung
    wanted.set()
    taking.join(WAIT)
    assert not taking.is_alive() and not is_there(hung) and len(rows(file)) == 2


def test_take__at_ease_for_too_long__another_is_told_to_hurry(
    file: Path, tables: ImportProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_process, "EASY_SECONDS", 0.3)
    hung = stop(tables)
    tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)
    assert not is_there(hung) and len(rows(file)) == 2
    assert tables.pid is not None and os.SCHED_IDLE not in policies(tables.pid)


def test_take__each_child_hangs__is_fatal_and_says_so(
    file: Path, tables: ImportProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_process, "HURRIED_SECONDS", 0.2)
    with contextlib.closing(SqliteDatabase(file).open_file()) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FatalError, match=r"failed 3 times: at last it did not answer within 0\.2 s"):
            tables.take(payload(1), Mark(7, 1), hurried=True, synced=True)
        assert tables.pid is None
        other.execute("ROLLBACK")
    assert not rows(file)


def test_close__child_hangs__it_is_killed(tables: ImportProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_process, "END_SECONDS", 0.3)
    hung = stop(tables)
    tables.close()
    assert not is_there(hung)


@pytest.mark.parametrize("at_ease", [False, True])
def test_finish__child_hangs__everything_gets_into_the_tables(
    file: Path, tables: ImportProcess, monkeypatch: pytest.MonkeyPatch, at_ease: bool
) -> None:
    """A node that stops: what the child had not answered is given to another."""
    monkeypatch.setattr(import_process, "SLICE_SECONDS", 0.05)
    taken: list[int] = []
    failures: list[Exception] = []
    importing = Imports(tables, lambda number, _: taken.append(number), failures.append)
    stop(tables)
    wait_briefly(tables, monkeypatch)
    importing.start()
    importing.add(Mark(7, 1), payload(1, 2), [entry(1), entry(2)])
    if at_ease:
        time.sleep(0.5)
    importing.add(Mark(7, 2), payload(3), [entry(3)])
    ending = threading.Thread(target=importing.finish)
    ending.start()
    ending.join(WAIT)
    assert not ending.is_alive() and not failures
    assert len(rows(file)) == 4 and taken[-1] == 2 and tables.pid is None


def test_take__receipt_is_missing__says_what_the_importer_says(file: Path, tables: ImportProcess) -> None:
    tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)
    with pytest.raises(FatalError, match=r"goes on with sequence 3 .* the log ends at 1"):
        tables.take(payload(3), Mark(7, 2), hurried=False, synced=True)
    tables.take(payload(2), Mark(7, 3), hurried=False, synced=True)
    assert len(rows(file)) == 3


def test_take__somebody_else_writes__waits_for_the_lock(file: Path, tables: ImportProcess) -> None:
    with contextlib.closing(SqliteDatabase(file).open_file()) as other:
        other.execute("BEGIN IMMEDIATE")
        ending = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        ending.start()
        tables.take(payload(1), Mark(7, 1), hurried=True, synced=True)
        ending.join()
    assert len(rows(file)) == 2


def test_close__after_signals_that_are_for_the_node__it_has_done_its_work(
    file: Path, tables: ImportProcess
) -> None:
    tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)
    child = tables.pid
    assert child is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child, number)
    tables.take(payload(2), Mark(7, 2), hurried=False, synced=True)
    assert tables.pid == child
    tables.close()
    assert not is_there(child) and len(rows(file)) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
def test_open__whoever_started_it_is_killed__it_ends_as_well(file: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from assay.node.receipts.import_process import ImportProcess\n"
        "from assay.node.receipts.journal_mark import Mark\n"
        "tables = ImportProcess(Path(sys.argv[1])); tables.open(bool)\n"
        "print(tables.pid, flush=True)\n"
        "tables.take(bytes.fromhex(sys.argv[2]), Mark(7, 1), hurried=True, synced=True)"
    )
    command = [sys.executable, "-c", program, str(file), payload(1).hex()]
    with contextlib.closing(SqliteDatabase(file).open_file()) as other:
        other.execute("BEGIN IMMEDIATE")  # the child waits for it, and does not see its input end
        node = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert node.stdout is not None
        child = int(node.stdout.readline())
        deadline = time.monotonic() + WAIT
        while not has_open(child, file):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        node.kill()
        node.communicate()
        while is_there(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        other.execute("ROLLBACK")
    assert not rows(file)


def test_main__node_was_killed_while_it_started__writes_nothing(file: Path) -> None:
    message = MESSAGE.pack(7, 1, True, True, len(payload(1))) + payload(1)
    command = [sys.executable, "-P", "-m", "assay.node.receipts.import_child", str(file), str(os.getppid())]
    done = subprocess.run(command, input=message, capture_output=True, timeout=WAIT, check=True)
    assert not done.stdout and not rows(file)


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads")
def test_take__not_hurried__is_for_a_thread_that_stands_back(tables: ImportProcess) -> None:
    tables.take(payload(1), Mark(7, 1), hurried=True, synced=True)
    assert tables.pid is not None
    assert policies(tables.pid) == [os.SCHED_OTHER]
    assert priorities(tables.pid) == [max(HURRIED, os.getpriority(os.PRIO_PROCESS, 0))]
    tables.take(payload(2), Mark(7, 2), hurried=False, synced=True)
    deadline = time.monotonic() + WAIT  # on a busy machine that thread may still wait for its first moment
    while sorted(policies(tables.pid)) != [os.SCHED_OTHER, os.SCHED_IDLE]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert max(priorities(tables.pid)) == LOWEST


def test_serve__processor_has_no_time_for_it__is_done_all_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that was given up and ended later says nothing about the processor as it is now."""
    trials: list[threading.Event] = []
    by: list[bool] = []

    class Seen(LocalTables):
        def take(self, payload: bytes, mark: Mark, *, hurried: bool, synced: bool) -> None:
            by.append(threading.current_thread() is threading.main_thread())
            super().take(payload, mark, hurried=hurried, synced=synced)
            if mark.number == 2:
                time.sleep(1.1 * import_child.PATIENCE_SECONDS)
                trials[0].set()

    def attempt(_: float) -> None:
        trials.append(threading.Event())
        if len(trials) == 1:
            assert trials[0].wait(WAIT)

    monkeypatch.setattr(import_child, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(import_child, "_stand_back", lambda: None)
    monkeypatch.setattr(import_child, "_try", attempt)
    messages = b"".join(MESSAGE.pack(7, n, False, False, len(payload(n))) + payload(n) for n in (1, 2, 3))
    answers = io.BytesIO()
    with contextlib.closing(SqliteDatabase(file).open_file()) as connection:
        serve(Seen(Importer(connection)), io.BytesIO(messages), answers)
    assert answers.getvalue() == 3 * ANSWER.pack(0) and len(rows(file)) == 4
    assert by == [True, True, False] and len(trials) == 2


def test_serve__at_ease_took_long__needs_more_time_than_a_slice_before_the_next(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[float] = []

    class Slow(LocalTables):
        def take(self, payload: bytes, mark: Mark, *, hurried: bool, synced: bool) -> None:
            super().take(payload, mark, hurried=hurried, synced=synced)
            time.sleep(1.1 if mark.number == 1 else 0.0)

    monkeypatch.setattr(import_child, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(import_child, "_stand_back", lambda: None)
    monkeypatch.setattr(import_child, "_try", needed.append)
    messages = b"".join(MESSAGE.pack(7, n, False, False, len(payload(n))) + payload(n) for n in (1, 2, 3))
    with contextlib.closing(SqliteDatabase(file).open_file()) as connection:
        serve(Slow(Importer(connection)), io.BytesIO(messages), io.BytesIO())
    few, many = import_child.TRIAL_SECONDS, import_child.LONG_TRIAL_SECONDS
    assert needed == [few, many, few] and len(rows(file)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_open__secrets_in_the_environment__stay_with_the_node(
    tables: ImportProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_NODE_PASSPHRASE", "hunter2")
    tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)
    told = Path(f"/proc/{tables.pid}/environ").read_bytes()
    assert told and b"ASSAY_" not in told and b"hunter2" not in told


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_open__node_s_session__a_process_group_of_its_own(tables: ImportProcess) -> None:
    """A terminal's signals are for the node; in another session its priorities would count for nothing."""
    tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)
    assert tables.pid is not None
    assert os.getsid(tables.pid) == os.getsid(0) and os.getpgid(tables.pid) == tables.pid


@pytest.mark.parametrize("error", [None, OSError("not here")])
def test_serve__system_does_not_let_it_stand_back__works_all_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    def refuse(*_: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "setpriority", refuse)
    answers = io.BytesIO()
    message = MESSAGE.pack(7, 1, False, True, len(payload(1))) + payload(1)
    with contextlib.closing(SqliteDatabase(file).open_file()) as connection:
        serve(LocalTables(Importer(connection)), io.BytesIO(message), answers)
    assert answers.getvalue() == ANSWER.pack(0) and len(rows(file)) == 2


@pytest.mark.parametrize("given", [0, 10, len(payload(1))])
def test_serve__message_is_cut_off__takes_none_of_it(file: Path, given: int) -> None:
    """Else the tables would be said to have the whole frame."""
    answers = io.BytesIO()
    message = MESSAGE.pack(7, 1, True, True, len(payload(1, 2))) + payload(1, 2)[:given]
    with contextlib.closing(SqliteDatabase(file).open_file()) as connection:
        serve(LocalTables(Importer(connection)), io.BytesIO(message), answers)
        assert read_mark(connection) is None
    assert not answers.getvalue() and not rows(file)


def test_open__modules_of_the_same_names_in_the_working_directory__are_not_run(
    file: Path, tables: ImportProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ctypes", "sqlite3", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    tables.take(payload(1), Mark(7, 1), hurried=False, synced=True)
    assert len(rows(file)) == 2


@pytest.mark.parametrize("synced", [True, False])
def test_take__again_after_a_crash__leaves_all_of_it_on_disk_if_it_is_to_be(file: Path, synced: bool) -> None:
    """SQLite syncs its write-ahead log with a transaction that changes something, and with no other."""
    wal = file.with_name(file.name + "-wal")
    with (
        contextlib.closing(SqliteDatabase(file).open_file()) as killed,
        contextlib.closing(SqliteDatabase(file).open_file()) as connection,
    ):
        LocalTables(Importer(killed)).take(payload(1), Mark(7, 1), hurried=True, synced=False)
        before = wal.stat().st_size
        LocalTables(Importer(connection)).take(payload(1), Mark(7, 1), hurried=True, synced=synced)
        assert connection.execute("PRAGMA synchronous").fetchall() == [(2 if synced else 1,)]
        assert wal.stat().st_size > before and len(rows(file)) == 2
