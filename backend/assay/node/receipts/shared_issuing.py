"""Issues receipts into a PostgreSQL log that other processes of the node write to at the same time.

A group is one transaction: the rows of its consumers are locked in order, so that no other process can
issue for them; what the gate checked in memory is checked again; sequences are given, receipts signed,
written, committed. An item that fails is left out and says why. A commit whose answer was lost is looked
up, with the same rows locked, before anything is issued again: either all of it is there, or nothing is and
nothing will be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import psycopg
import structlog

from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import SigningKey
from assay.errors import FatalError, RetryableError
from assay.node.errors import PaymentError, Unavailable
from assay.node.payments.shared_channels import Locked, LockedChannel
from assay.node.receipts.database import IntegrityError
from assay.node.receipts.entries import Acknowledge, AlreadyIssued, ChannelKey, Issue, LoggedReceipt
from assay.node.receipts.postgresql import PostgresConnection, PostgresDatabase, Raw, as_ours
from assay.node.receipts.rows import RECEIPT, channel_state, receipt_of_row
from assay.node.receipts.schema import from_blob, to_blob
from assay.types import Address, Domain, Hash32, Receipt, SignedReceipt

RETRY_SECONDS: Final = 10.0
"""How long a group waits for a database that is away; requests are refused after that."""
MAX_KNOWN: Final = 100_000

Item = Issue | Acknowledge
Outcome = LoggedReceipt | None | Exception
Fresh = tuple[int, Issue, LoggedReceipt]
"""A receipt to be stored: its channel's row id, what it is issued for, the receipt."""

_LOCK: Final = "SELECT 1 FROM consumers WHERE consumer = ANY($1::text[]) ORDER BY consumer FOR NO KEY UPDATE"
_CHANNELS: Final = """
SELECT id, prepaid, version_id, consumer, sequence, unpaid, charged, amount, count, signature, wallet
FROM channels WHERE consumer = ANY($1::text[])
"""
_STORED: Final = f"""
SELECT r.voucher, {RECEIPT} FROM receipts r JOIN channels c ON c.id = r.channel
WHERE r.voucher = ANY($1::bytea[]) OR r.digest = ANY($2::bytea[])
"""  # noqa: S608
_NEW_CONSUMERS: Final = """
INSERT INTO consumers SELECT unnest($1::text[]) ORDER BY 1 ON CONFLICT (consumer) DO NOTHING
"""
_NEW_CHANNELS: Final = """
INSERT INTO channels (version_id, consumer)
SELECT v, c FROM unnest($1::bytea[], $2::text[]) AS n (v, c) ORDER BY c, v
ON CONFLICT (version_id, consumer) DO NOTHING
"""
_RECEIPTS: Final = """
INSERT INTO receipts (channel, sequence, version_id, digest, input_hash, output_hash, price, executed_at,
    signature, voucher, public)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[],
    $7::bytea[], $8::bigint[], $9::bytea[], $10::bytea[], $11::bigint[])
"""
_DATA: Final = """
INSERT INTO receipt_data SELECT r.id, d.content
FROM unnest($1::bytea[], $2::bytea[]) AS d (digest, content) JOIN receipts r ON r.digest = d.digest
"""
_UPDATE: Final = """
UPDATE channels c SET sequence = n.sequence, unpaid = n.unpaid, charged = n.charged, amount = n.amount,
    count = n.count, signature = n.signature, wallet = n.wallet, prepaid = n.prepaid
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bigint[], $7::bytea[],
    $8::bigint[], $9::bytea[])
    AS n (id, sequence, unpaid, charged, amount, count, signature, wallet, prepaid)
WHERE c.id = n.id
"""

_log = structlog.get_logger(__name__)


class SharedIssuer:
    """Through a connection of its own; one thread at a time."""

    def __init__(
        self,
        database: PostgresDatabase,
        domain: Domain,
        node: Address,
        clock: Callable[[], float] = time.time,
        *,
        retry_seconds: float = RETRY_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection = PostgresConnection(database.open_raw, database.name)
        self._name = database.name
        self.domain = domain
        self.node = node
        self._clock = clock
        self._sleep = sleep
        self._retry_seconds = retry_seconds
        self._patience = retry_seconds
        self._known: dict[ChannelKey, int] = {}
        """Channels that have a row, and the last sequence that this process saw there."""

    def close(self) -> None:
        self._connection.close()

    def write(self, items: Sequence[Item], key: SigningKey) -> list[Outcome]:
        """Sign and store what of `items` can be; receipts that are returned are on disk.

        Outcomes that are exceptions: AlreadyIssued; PaymentError `voucher_stale`, `voucher_short`,
        `escrow_short`; Unavailable while the database is away. Raises FatalError, also if the log has lost
        receipts that this process saw in it.
        """
        doubtful: dict[Hash32, list[Outcome]] = {}
        deadline = time.monotonic() + self._patience
        pause = 0.05
        while True:
            try:
                outcomes = self._attempt(items, key, doubtful)
                self._patience = self._retry_seconds
                return outcomes
            except IntegrityError as error:
                if len(items) == 1:
                    return [_refused(error)]
                return [self.write([item], key)[0] for item in items]
            except RetryableError as error:
                _log.warning("receipts log waits", log=self._name, error=str(error))
                if time.monotonic() + pause >= deadline:
                    self._patience = min(1.0, self._retry_seconds)
                    away = (
                        f"this node's receipts log cannot be written ({error}); repeat the request as it is"
                    )
                    return [Unavailable(away, retry_after=2)] * len(items)
            self._sleep(pause)
            pause = min(2 * pause, 1.0)

    def _attempt(
        self, items: Sequence[Item], key: SigningKey, doubtful: dict[Hash32, list[Outcome]]
    ) -> list[Outcome]:
        raw = self._connection.ensure_open()
        try:
            self._make_channels(raw, {item.key for item in items} - self._known.keys())
            with raw.pipeline() as pipeline, raw.transaction():
                locked, stored = self._lock(raw, pipeline, items, doubtful)
                for digest, outcomes in doubtful.items():
                    if digest in stored:
                        return outcomes
                outcomes, fresh = self._issue_all(items, locked, key)
                if fresh:
                    doubtful[fresh[0][2].digest] = outcomes
                self._store(raw, fresh, locked.changed())
            self._known |= {item.key: locked.channels[item.key].sequence for item in items}
            return outcomes
        except psycopg.Error as error:
            if not isinstance(error, psycopg.IntegrityError):
                self._connection.close()  # the next one may be to a server that takes writes
            raise as_ours(error, self._name) from error

    def _make_channels(self, raw: Raw, keys: set[ChannelKey]) -> None:
        """Rows to lock, committed before anybody locks them, so that two processes cannot wait for each
        other."""
        if not keys:
            return
        consumers = sorted({key.consumer for key in keys})
        raw.execute(_NEW_CONSUMERS, (consumers,))
        raw.execute(_NEW_CHANNELS, ([key.version_id for key in keys], [key.consumer for key in keys]))
        if len(self._known) + len(keys) > MAX_KNOWN:
            self._known.clear()
        self._known |= dict.fromkeys(keys, 0)

    def _lock(
        self, raw: Raw, pipeline: psycopg.Pipeline, items: Sequence[Item], doubtful: Iterable[Hash32]
    ) -> tuple[Locked, set[Hash32]]:
        """The channels of the group's consumers, this transaction's alone from now on, with the receipts that
        its payments have; and which of the digests in doubt are in the log."""
        consumers = sorted({item.key.consumer for item in items})
        payments = [item.payment for item in items if isinstance(item, Issue) and item.payment]
        asked = list(doubtful)
        rows_held = raw.execute(_LOCK, (consumers,))
        channels = raw.execute(_CHANNELS, (consumers,), binary=True)
        receipts = raw.execute(_STORED, (payments, asked), binary=True) if payments or asked else None
        pipeline.sync()  # within a batch of its protocol the server times no idle transaction
        locked = {}
        for number, prepaid, *row in channels.fetchall():
            state = channel_state(row)
            locked[state.key] = LockedChannel.of(number, state, from_blob(prepaid))
        for key in {item.key for item in items}:
            found, seen = locked[key].sequence if key in locked else 0, self._known.get(key, 0)
            if found < seen:
                raise _went_back(self._name, key, found, seen)
        if len(rows_held.fetchall()) < len(consumers) or any(item.key not in locked for item in items):
            for item in items:
                self._known.pop(item.key, None)
            raise RetryableError(f"{self._name} lost rows that this process made; they are made anew")
        rows = [] if receipts is None else receipts.fetchall()
        stored = [(voucher, receipt_of_row(self.node, row)) for voucher, *row in rows]
        paid = {Hash32(voucher): logged for voucher, logged in stored if voucher is not None}
        return Locked(locked, paid), {logged.digest for _, logged in stored}

    def _issue_all(
        self, items: Sequence[Item], locked: Locked, key: SigningKey
    ) -> tuple[list[Outcome], list[Fresh]]:
        outcomes: list[Outcome] = []
        fresh: list[Fresh] = []
        for item in items:
            try:
                if isinstance(item, Acknowledge):
                    locked.check_acknowledgement(item.key, item.voucher, item.ceiling)
                    locked.keep(item.key, item.voucher)
                    outcomes.append(None)
                    continue
                locked.check_issue(item)
            except (AlreadyIssued, PaymentError) as error:
                outcomes.append(error)
                continue
            channel = locked.channels[item.key]
            logged = self._sign(item, channel.charge(item), key)
            if item.voucher is not None:
                locked.keep(item.key, item.voucher)
            if item.payment is not None:
                locked.paid[item.payment] = logged
            fresh.append((channel.id, item, logged))
            outcomes.append(logged)
        return outcomes, fresh

    def _sign(self, item: Issue, sequence: int, key: SigningKey) -> LoggedReceipt:
        receipt = Receipt(
            node=self.node,
            consumer=item.key.consumer,
            version_id=item.key.version_id,
            input_hash=item.input_hash,
            output_hash=item.output_hash,
            price=item.price,
            sequence=sequence,
            executed_at=int(self._clock()),
        )
        digest = receipt_digest(self.domain, receipt)
        return LoggedReceipt.of(SignedReceipt(receipt, key.sign(digest)), digest, item.public)

    def _store(self, raw: Raw, fresh: Sequence[Fresh], channels: Iterable[LockedChannel]) -> None:
        if fresh:
            raw.execute(_RECEIPTS, _columns(_receipt_row(*each) for each in fresh), binary=True)
        data = [(logged.digest, item.data) for _, item, logged in fresh if item.data is not None]
        if data:
            raw.execute(_DATA, _columns(data), binary=True)
        if rows := [_channel_row(channel) for channel in channels]:
            raw.execute(_UPDATE, _columns(rows), binary=True)


def _receipt_row(channel: int, item: Issue, logged: LoggedReceipt) -> tuple[object, ...]:
    receipt = logged.issued
    return (
        channel,
        receipt.sequence,
        logged.key.version_id,
        receipt.digest,
        receipt.input_hash,
        receipt.output_hash,
        to_blob(receipt.price),
        receipt.executed_at,
        receipt.signature,
        item.payment,
        int(item.public),
    )


def _channel_row(channel: LockedChannel) -> tuple[object, ...]:
    held = channel.held
    return (
        channel.id,
        channel.sequence,
        channel.unpaid,
        to_blob(channel.charged),
        to_blob(channel.amount),
        channel.count,
        held.signature if held else None,
        int(held.wallet) if held else 0,
        to_blob(channel.prepaid),
    )


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _went_back(name: str, key: ChannelKey, found: int, seen: int) -> FatalError:
    return FatalError(
        f"{name} has {found} receipts of {key.consumer} and version 0x{key.version_id.hex()}, this process "
        f"saw {seen} there: the log lost what it had confirmed (a backup, or a standby that was behind), and "
        "to sign on would give sequences twice, which is slashed. Bring the newer log back, or serve as "
        "another node"
    )


def _refused(error: IntegrityError) -> PaymentError:
    return PaymentError(
        f"the payment is one that this node's log cannot take ({error}); sign a new voucher with a greater "
        "amount",
        code="voucher_stale",
    )
