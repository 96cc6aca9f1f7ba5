"""Which transactions moved an authorization's sum: only the token's own event right after the nonce's use."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from assay.chain.values import LogReceipt, TxReceipt
from assay.commitments.authorizations import TRANSFER_TOPIC, USED_TOPIC, Authorization
from assay.commitments.identifiers import address_word, checksum_address
from assay.node.x402.transfers import DEEP_BLOCKS, LOOKBACK_BLOCKS, Fate, Transfers, moves
from assay.types import Address, Hash32

TOKEN, PAYER, PAYEE, OTHER = (checksum_address(bytes([n]) * 20) for n in range(1, 5))
GIVEN = Authorization(PAYER, PAYEE, 5, 0, 9, Hash32(b"\x07" * 32))
HASH = Hash32(b"\x08" * 32)


def log(*topics: bytes, data: int | None = None, address: Address = TOKEN) -> LogReceipt:
    return {
        "address": address.lower(),
        "topics": ["0x" + topic.hex() for topic in topics],
        "data": "0x" if data is None else "0x" + data.to_bytes(32, "big").hex(),
    }


def used(payer: Address = PAYER, nonce: Hash32 = GIVEN.nonce, **where: Any) -> LogReceipt:
    return log(USED_TOPIC, address_word(payer), nonce, **where)


def moved(payer: Address = PAYER, payee: Address = PAYEE, value: int = 5, **where: Any) -> LogReceipt:
    return log(TRANSFER_TOPIC, address_word(payer), address_word(payee), data=value, **where)


def mined(*logs: LogReceipt) -> TxReceipt:
    return TxReceipt(HASH, 1, HASH, 1, 1, 1, None, logs)


OTHER_NONCE = Hash32(b"\x09" * 32)


@pytest.mark.parametrize(
    "logs",
    [
        (used(), moved()),
        (used(), log(b"\x01" * 32, address=OTHER), moved()),
        (used(nonce=OTHER_NONCE), moved(), used(), moved()),
    ],
    ids=["alone", "with_another_contracts_event_between", "after_another_payment"],
)
def test_moves__the_transfer_follows_the_nonce__is_it(logs: tuple[LogReceipt, ...]) -> None:
    assert moves(mined(*logs), TOKEN, GIVEN)


@pytest.mark.parametrize(
    "logs",
    [
        (),
        (used(),),
        (moved(),),
        (moved(), used()),
        (used(), moved(value=4)),
        (used(), moved(payee=OTHER)),
        (used(), moved(payer=OTHER)),
        (used(nonce=OTHER_NONCE), moved()),
        (used(payer=OTHER), moved()),
        (used(address=OTHER), moved()),
        (used(), moved(address=OTHER)),
        (used(address=OTHER), moved(address=OTHER)),
        (used(), moved(value=1), used(nonce=OTHER_NONCE), moved()),
    ],
)
def test_moves__anything_else__is_not(logs: tuple[LogReceipt, ...]) -> None:
    assert not moves(mined(*logs), TOKEN, GIVEN)


def test_moves__another_sum_than_authorized__is_not() -> None:
    assert not moves(mined(used(), moved()), TOKEN, replace(GIVEN, value=6))


class Client:
    """A chain of `head` blocks, a second each, that says what was used when, and by what."""

    def __init__(self, head: int, used_in: int | None = None, *logs: LogReceipt) -> None:
        self.head, self.used_in, self.logs = head, used_in, logs

    def block_number(self) -> int:
        return self.head

    def get_block(self, number: int) -> Any:
        return SimpleNamespace(number=number, timestamp=number)

    def call(self, to: Address, data: bytes, block: int) -> bytes:
        assert to == TOKEN and data[4:] == address_word(PAYER) + GIVEN.nonce
        return int(self.used_in is not None and self.used_in <= block).to_bytes(32, "big")

    def get_logs(self, lower: int, upper: int, *_: Any) -> list[dict[str, str]]:
        found = self.used_in is not None and lower <= self.used_in <= upper and bool(self.logs)
        return [{"transactionHash": "0x" + HASH.hex()}] if found else []

    def get_tx_receipt(self, tx_hash: Hash32) -> TxReceipt:
        assert self.used_in is not None
        return replace(mined(*self.logs), block_number=self.used_in)


ENDS = 1_000
UNTIL = replace(GIVEN, valid_before=ENDS)


@pytest.mark.parametrize(
    ("client", "fate"),
    [
        (Client(ENDS), Fate.OPEN),
        (Client(ENDS + DEEP_BLOCKS - 1), Fate.OPEN),
        (Client(ENDS + DEEP_BLOCKS), Fate.EXPIRED),
        (Client(990 + DEEP_BLOCKS, 990, used(), moved()), Fate.MOVED),
        (Client(989 + DEEP_BLOCKS, 990, used(), moved()), Fate.OPEN),
        (Client(990 + DEEP_BLOCKS, 990), Fate.SPENT),
        (Client(990 + DEEP_BLOCKS, 990, used(), moved(value=4)), Fate.SPENT),
        (Client(990 + 2 * LOOKBACK_BLOCKS, 990, used(), moved()), Fate.UNKNOWN),
    ],
    ids=[
        *("young", "at_its_end", "over", "moved", "moved_just_now", "taken_back", "another_sum", "long_ago"),
    ],
)
def test_fate__of_an_authorization__is_what_no_reorg_changes(client: Client, fate: Fate) -> None:
    found, tx_hash = Transfers(client, TOKEN).fate(UNTIL, 900)  # type: ignore[arg-type]
    assert found is fate
    assert tx_hash == (HASH if fate is Fate.MOVED else None)
