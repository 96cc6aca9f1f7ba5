"""The consumer's memory: what is saved is what is loaded, by another process too; locks exclude."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest
from assay.client.channels import ChannelState, Pending, prepare, refuse, release
from assay.client.store import ChannelKey, Store
from assay.errors import RetryableError
from assay.types import Address, Domain, Hash32

DOMAIN = Domain(1, Address("0x" + "11" * 20))
KEY = ChannelKey(DOMAIN, Address("0x" + "22" * 20), Address("0x" + "33" * 20), Hash32(b"\x04" * 32))
FRESH = ChannelState(KEY.consumer, KEY.node, KEY.version_id)
HUGE = 2**100


def pending(amount: int = HUGE, body: bytes | None = b"body") -> Pending:
    return Pending(amount, 0, amount, Hash32(b"\x05" * 32), body, 3, 7)


def test_save__every_kind_of_state__another_store_loads_the_same(tmp_path: Path) -> None:
    states = [
        FRESH,
        prepare(FRESH, pending()),
        prepare(FRESH, pending(body=None)),
        refuse(prepare(FRESH, pending()), "why"),
        release(prepare(FRESH, pending())),
        replace(FRESH, charged=HUGE, signed=HUGE, count=3, acknowledged=2, sequence=5),
    ]
    store, other = Store(tmp_path), Store(tmp_path)
    assert store.load(KEY) is None
    for state in states:
        store.save(KEY, state)
        assert other.load(KEY) == state
        assert other.channels(DOMAIN, KEY.consumer) == [state]
    store.close()
    other.close()


def test_save__request_answered__its_body_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(KEY, prepare(FRESH, pending(body=b"a private matter")))
    store.save(KEY, FRESH)
    assert store._rows("SELECT * FROM bodies") == []
    store.close()


def test_save__disk_full__says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    store = Store(tmp_path)
    state = prepare(FRESH, pending(body=bytes(500_000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(RetryableError, match="Make room"):
            store.save(KEY, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.load(KEY) is None
    store.save(KEY, state)
    assert store.load(KEY) == state
    store.close()


def test_lock__held_by_another_store__times_out_and_names_the_node(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    with store.lock(KEY), pytest.raises(RetryableError, match=KEY.node), other.lock(KEY, timeout=0.02):
        raise AssertionError("two hold one lock")
    with other.lock(KEY, timeout=0.02):
        pass
    store.close()
    other.close()


def test_add_deposit__bound__counts_all_deposits_of_the_account(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.add_deposit(1, KEY.consumer, KEY.node, HUGE, limit=2 * HUGE)
    assert store.add_deposit(1, KEY.consumer, KEY.node, HUGE, limit=2 * HUGE)
    assert not store.add_deposit(1, KEY.consumer, KEY.node, 1, limit=2 * HUGE)
    assert store.add_deposit(2, KEY.consumer, KEY.node, 1, limit=1)
    assert store.deposited(1, KEY.consumer) == 2 * HUGE
    store.close()


def test_keep_copy__beyond_the_limit__drops_the_oldest(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    for n in range(5):
        store.keep_copy(f"0x{n}", bytes([n]) * 10, limit=30)
    assert [other.copy(f"0x{n}") for n in range(5)] == [None, None, *(bytes([n]) * 10 for n in (2, 3, 4))]
    other.keep_copy("0x5", b"x" * 31, limit=30)
    assert store.copy("0x5") is None
    other.keep_copy("0x4", b"another", limit=30)
    assert store.copy("0x4") == b"\x04" * 10
    other.keep_copy("0x6", b"y" * 30, limit=30)
    assert [store.copy(f"0x{n}") for n in range(6)] == [None] * 6
    assert store.copy("0x6") == b"y" * 30
    store.close()
    other.close()


def test_keep_copy__limit_of_nothing__keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_copy("0x1", b"x", limit=0)
    assert store.copy("0x1") is None
    store.close()


def test_store__new_folder__is_for_its_owner_alone(tmp_path: Path) -> None:
    """It holds inputs, and the header of an open payment, which anybody could present."""
    Store(tmp_path / "var" / "client").close()
    assert (tmp_path / "var" / "client").stat().st_mode & 0o077 == 0
