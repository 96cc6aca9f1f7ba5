"""The memory that bodies take: by host while they come."""

from __future__ import annotations

from assay.node.errors import Unavailable
from assay.node.http.admission import Admission
from hypothesis import given
from hypothesis import strategies as st


def refused(admission: Admission, host: str, size: int) -> bool:
    try:
        admission.expect(host, size)
    except Unavailable as error:
        assert error.code == "busy"
        return True
    return False


def test_expect__one_host_claims_all_bytes__gets_half_and_leaves_the_rest_to_others() -> None:
    admission = Admission(max_bytes=100)
    assert [refused(admission, "slow", 10) for _ in range(8)] == [False] * 5 + [True] * 3
    assert not refused(admission, "other", 50)
    assert refused(admission, "third", 1)


def test_expect__one_body_as_large_as_the_limit__is_taken_when_nothing_else_is_held() -> None:
    admission = Admission(max_bytes=100)
    assert refused(admission, "a", 101)
    assert not refused(admission, "a", 100)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.integers(0, 3)), max_size=80))
def test_admission__any_order__keeps_both_bounds_and_ends_empty(work: list[tuple[str, int, int]]) -> None:
    admission = Admission(max_bytes=100)
    coming: list[tuple[str, int]] = []
    running: list[int] = []
    for host, size, step in work:
        if step < 2:
            if not refused(admission, host, size):
                coming.append((host, size))
        elif step == 2 and coming:
            admission.start(*coming[0])
            running.append(coming.pop(0)[1])
        elif running:
            admission.finish(running.pop())
        assert admission.bytes == sum(running) + sum(size for _, size in coming) <= 100
    for host, size in coming:
        admission.forget(host, size)
    for size in running:
        admission.finish(size)
    assert admission == Admission(100)
