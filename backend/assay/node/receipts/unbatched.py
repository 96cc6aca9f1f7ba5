"""What the log holds that is in no batch yet, and what of it is at risk. Reads cost by channels, not by
receipts: each channel's row says up to which sequence its receipts have gone into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from assay.chain.settlement import MAX_VOUCHERS, MAX_WALLET_VOUCHERS
from assay.node.receipts.database import Connection
from assay.node.receipts.schema import from_blob
from assay.types import Address, Hash32

_OPEN: Final = (
    "SELECT c.id, c.version_id, c.consumer, c.wallet, c.closed, c.sequence, c.closed_charged, c.charged,"
    " c.prepaid, c.count,"
    " (SELECT r.executed_at FROM receipts r WHERE r.channel = c.id AND r.sequence = c.closed + 1),"
    " (SELECT r.executed_at FROM receipts r WHERE r.channel = c.id AND r.sequence = c.sequence)"
    " FROM channels c WHERE c.sequence > c.closed"
)


@dataclass(frozen=True, slots=True)
class OpenChannel:
    """A channel with receipts in no batch: those of sequence `closed + 1` to `sequence`. `charged`: the sum
    of their prices in base units; `oldest`, `newest`: when the first and the last of them were executed."""

    channel: int
    version_id: Hash32
    consumer: Address
    wallet: bool
    closed: int
    sequence: int
    charged: int
    count: int
    oldest: int
    newest: int
    has_paid: bool
    """Whether a receipt of the channel ever had a price."""

    @property
    def receipts(self) -> int:
        return self.sequence - self.closed

    @property
    def is_acknowledged(self) -> bool:
        return self.count >= self.sequence


def open_channels(connection: Connection) -> list[OpenChannel]:
    """All of them, those that wait longest first."""
    found = []
    for row in connection.execute(_OPEN):
        number, version_id, consumer, wallet, closed, sequence, *amounts, count, oldest, newest = row
        found.append(
            OpenChannel(
                channel=number,
                version_id=Hash32(version_id),
                consumer=Address(consumer),
                wallet=bool(wallet),
                closed=closed,
                sequence=sequence,
                charged=_open_value(*amounts),
                count=count,
                oldest=oldest or 0,
                newest=newest or 0,
                has_paid=any(map(from_blob, amounts)),
            )
        )
    return sorted(found, key=lambda channel: (channel.oldest, channel.channel))


def _open_value(closed: bytes, charged: bytes, prepaid: bytes) -> int:
    return max(from_blob(charged) + from_blob(prepaid) - from_blob(closed), 0)


def count_open(connection: Connection) -> int:
    """Receipts in no batch."""
    row = connection.execute(
        "SELECT coalesce(sum(sequence - closed), 0) FROM channels WHERE sequence > closed"
    ).fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True)
class Exposure:
    """Prices of the receipts that can still be proven wrong: in no batch, in one that waits to be posted, in
    one that is posted and not collected. Base units."""

    open: int = 0
    closed: int = 0
    posted: int = 0

    @property
    def total(self) -> int:
        return self.open + self.closed + self.posted


def read_exposure(connection: Connection) -> Exposure:
    open_value = sum(
        _open_value(*amounts)
        for amounts in connection.execute(
            "SELECT closed_charged, charged, prepaid FROM channels WHERE sequence > closed"
        )
    )
    sums = {"closed": 0, "posted": 0}
    for state, value in connection.execute(
        "SELECT state, value FROM batches WHERE state IN ('closed', 'posted')"
    ):
        sums[state] += from_blob(value)
    return Exposure(open_value, sums["closed"], sums["posted"])


def within_rows(channels: Iterable[OpenChannel]) -> list[OpenChannel]:
    """The first that fit into one batch's voucher rows."""
    room = [MAX_VOUCHERS, MAX_WALLET_VOUCHERS]
    result = []
    for channel in channels:
        if room[channel.wallet] > 0:
            room[channel.wallet] -= 1
            result.append(channel)
        if not any(room):
            break
    return result


@dataclass(frozen=True, slots=True)
class Range:
    """A batch's receipts of one channel: sequences `first` to `last`, leaves in this order."""

    channel: int
    first: int
    last: int

    @property
    def receipts(self) -> int:
        return self.last - self.first + 1


def choose_ranges(channels: Sequence[OpenChannel], max_receipts: int) -> list[Range]:
    """The first `max_receipts` open receipts, channel by channel in the order given."""
    room, result = max_receipts, []
    for channel in channels:
        if room <= 0:
            break
        taken = min(channel.receipts, room)
        result.append(Range(channel.channel, channel.closed + 1, channel.closed + taken))
        room -= taken
    return result
