"""Which requests get a line, and how many."""

from __future__ import annotations

from assay.node.observability.request_log import BURST, LINES_PER_SECOND, RequestLog, Requests
from assay.types import Hash32
from structlog.testing import capture_logs

DIGEST = Hash32(bytes(32))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def refuse(log: RequestLog, status: int) -> str:
    return log.refused(
        "mine", "/v2/models/m/infer", status=status, code="some_code", reason="why", seconds=0.001
    )


def test_refused__failures_alone_wanted__only_they_get_a_line() -> None:
    log = RequestLog(Requests.FAILED)
    with capture_logs() as lines:
        for status in (400, 402, 503, 500):
            refuse(log, status)
    assert [(line["event"], line["status"], line["request"]) for line in lines] == [("failed", 500, "mine")]


def test_refused__refusals_wanted__each_gets_a_line_with_its_code() -> None:
    log = RequestLog(Requests.REFUSED)
    with capture_logs() as lines:
        refuse(log, 402)
    assert [(line["event"], line["code"]) for line in lines] == [("refused", "some_code")]


def test_refused__a_flood__is_bounded_and_what_was_left_out_is_counted() -> None:
    clock = Clock()
    log = RequestLog(Requests.REFUSED, clock=clock)
    with capture_logs() as lines:
        for _ in range(int(BURST) + 50):
            refuse(log, 402)
        clock.now = 1.0
        for _ in range(int(LINES_PER_SECOND) + 5):
            refuse(log, 402)
    assert len(lines) == BURST + LINES_PER_SECOND
    assert [line["left_out"] for line in lines if "left_out" in line] == [50]


def test_answered__all_wanted__names_request_receipt_and_consumer() -> None:
    log = RequestLog(Requests.ALL)
    with capture_logs() as lines:
        log.answered("mine", "0xA/m@1", DIGEST, "0xC", 0.01)
    (line,) = lines
    assert (line["request"], line["receipt"], line["consumer"]) == ("mine", "0x" + "00" * 32, "0xC")


def test_name__clients_that_give_none__get_different_ones() -> None:
    log = RequestLog()
    assert len({log.name(None) for _ in range(100)}) == 100
    assert len(log.name("x" * 10_000)) == 128


def test_refused__text_that_moves_the_cursor__is_escaped() -> None:
    log = RequestLog(Requests.REFUSED)
    with capture_logs() as lines:
        log.refused("a\nb", "ModelInfer/\x1b[2J", status=404, code="c", reason="no\rsuch", seconds=0)
    (line,) = lines
    assert (line["request"], line["path"], line["reason"]) == ("a\\nb", "ModelInfer/\\x1b[2J", "no\\rsuch")
