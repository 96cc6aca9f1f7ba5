"""Disputes put together from DisputeGame's events (SPEC.md §11).

records = fetch_disputes(client, game, deployment.block)            # every dispute, by number
record.state, record.data                                           # what `challenge` takes
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from assay.chain.client import ChainClient
from assay.chain.dispute_game import DisputeGame
from assay.chain.logs import scan_logs
from assay.chain.values import EventData
from assay.errors import FatalError
from assay.exact.game import Phase, Side, State
from assay.types import Address, Hash32, Receipt, SignedReceipt

EVENTS = ("DisputeOpened", "Moved", "DisputeClosed")


@dataclass(frozen=True, slots=True)
class PlayedMove:
    """A move that was mined. `data`: what it revealed; empty for a selection."""

    phase: Phase
    data: bytes
    state: State
    """After it."""
    transaction_hash: Hash32
    block_number: int
    log_index: int


@dataclass(frozen=True, slots=True)
class Closing:
    """How a dispute ended. Amounts in the token's base unit; the winner gets the bond besides."""

    node_won: bool
    phase: Phase
    """Whose move decided it: PROVE_STEP if the node proved it, else the phase that was not answered."""
    slashed: int
    to_challenger: int
    to_consumer: int
    to_treasury: int
    transaction_hash: Hash32
    block_number: int


@dataclass(frozen=True, slots=True)
class DisputeRecord:
    """One dispute as far as the events tell."""

    dispute_id: int
    node: Address
    challenger: Address
    signed: SignedReceipt
    opened: State
    transaction_hash: Hash32
    """Of `open`."""
    block_number: int
    moves: tuple[PlayedMove, ...] = ()
    closing: Closing | None = None

    @property
    def receipt(self) -> Receipt:
        return self.signed.receipt

    @property
    def signature(self) -> bytes:
        return self.signed.signature

    @property
    def state(self) -> State:
        """The current one; of a closed dispute the last."""
        return self.moves[-1].state if self.moves else self.opened

    @property
    def last_move(self) -> PlayedMove | None:
        return self.moves[-1] if self.moves else None

    @property
    def data(self) -> bytes:
        """What the last move revealed."""
        return self.moves[-1].data if self.moves else b""

    @property
    def is_open(self) -> bool:
        return self.closing is None

    @property
    def side(self) -> Side | None:
        """Who owes the move; None if the dispute is closed or forfeited."""
        return self.state.side if self.is_open else None

    @property
    def transactions(self) -> tuple[Hash32, ...]:
        """Hashes in order, from `open` on."""
        found = [self.transaction_hash, *(move.transaction_hash for move in self.moves)]
        return tuple(found if self.closing is None else [*found, self.closing.transaction_hash])


def fetch_disputes(
    client: ChainClient,
    game: DisputeGame,
    from_block: int,
    to_block: int | None = None,
    *,
    node: Address | None = None,
    challenger: Address | None = None,
    ids: Collection[int] | None = None,
) -> dict[int, DisputeRecord]:
    """Disputes opened in these blocks (to the head by default), as they stand at the last of them, by number.

    `from_block` must not be later than the openings that matter; moves of earlier disputes are left out.
    """
    if client is not game.client:
        raise FatalError("fetch_disputes was given a game of another chain client")
    last = client.block_number() if to_block is None else to_block
    topics = [[game.abi.topic(name) for name in EVENTS], None if ids is None else _words(ids)]
    logs = scan_logs(game, topics, from_block, last)
    records = fold_events(game.decode_log(log) for log in logs)
    return {
        number: record
        for number, record in records.items()
        if node in (None, record.node) and challenger in (None, record.challenger)
    }


def fold_events(
    events: Iterable[EventData], known: dict[int, DisputeRecord] | None = None
) -> dict[int, DisputeRecord]:
    """The records after these events, oldest first, on top of what is known; other events are passed over."""
    records = dict(known or {})
    for event in events:
        if event.name not in EVENTS:
            continue
        number = event.args["dispute_id"]
        if event.name == "DisputeOpened":
            records[number] = _opened(event)
        elif number in records:
            records[number] = _went_on(records[number], event)
    return records


def _words(ids: Collection[int]) -> list[str]:
    return [f"0x{number:064x}" for number in sorted(ids)]


def _opened(event: EventData) -> DisputeRecord:
    args = event.args
    return DisputeRecord(
        dispute_id=args["dispute_id"],
        node=args["node"],
        challenger=args["challenger"],
        signed=SignedReceipt(Receipt(*args["receipt"]), args["signature"]),
        opened=State.from_row(args["state"]),
        transaction_hash=event.transaction_hash,
        block_number=event.block_number,
    )


def _went_on(record: DisputeRecord, event: EventData) -> DisputeRecord:
    args, where = event.args, (event.transaction_hash, event.block_number)
    if event.name == "Moved":
        state = State.from_row(args["state"])
        move = PlayedMove(Phase(args["move"]), args["data"], state, *where, event.log_index)
        return replace(record, moves=(*record.moves, move))
    closing = Closing(
        args["node_won"],
        Phase(args["phase"]),
        args["slashed"],
        args["to_challenger"],
        args["to_consumer"],
        args["to_treasury"],
        *where,
    )
    return replace(record, closing=closing)
