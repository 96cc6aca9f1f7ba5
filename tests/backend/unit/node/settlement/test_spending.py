"""What transactions have cost, and that its totals are the table's, whatever happens."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from assay.chain.client import hex_bytes
from assay.chain.outbox import Attempt, Intent, IntentState
from assay.chain.transactions import Fees
from assay.chain.values import Call, TxReceipt
from assay.node.observability.gauges import read_log
from assay.node.observability.metrics import Metrics
from assay.node.receipts.database import Connection, Database, SqliteConnection, SqliteDatabase
from assay.node.receipts.schema import MIGRATIONS, TABLES, from_blob, prepare_database, to_blob
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.spending import Kind, Total, correct, forget, record, totals
from assay.node.settlement.values import BatchState
from assay.types import Address, Domain, Hash32

NODE = Address("0x" + "11" * 20)
DOMAIN = Domain(1, NODE)
ETHER = 10**18


def tx(number: int, gas: int = 100, price: int = 7) -> TxReceipt:
    return TxReceipt(Hash32(number.to_bytes(32, "big")), 1, Hash32(bytes(32)), 1, gas, price, None, ())


def spend(db: Connection, number: int, kind: Kind, *batches: int, gas: int = 100, price: int = 7) -> None:
    with db.transaction():
        record(db, kind, tx(number, gas, price), [(batch, None) for batch in batches])


def summed(db: Connection) -> dict[str, Total]:
    """What `totals` must be, from the table itself."""
    rows = db.execute("SELECT kind, tx_hash, gas, wei FROM spending").fetchall()
    return {
        kind: Total(
            len({row[1] for row in rows if row[0] == kind}),
            sum(row[2] for row in rows if row[0] == kind),
            sum(from_blob(row[3]) for row in rows if row[0] == kind),
        )
        for kind in {row[0] for row in rows}
    }


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with closing(prepare_database(database, DOMAIN, NODE)) as connection:
        yield connection


def test_totals__nothing_spent__none(db: Connection) -> None:
    assert totals(db) == {}


def test_totals__shared_repeated_and_large__each_transaction_once(db: Connection) -> None:
    spend(db, 1, Kind.COLLECT, 1, 2, 3)
    spend(db, 2, Kind.COLLECT, 4, gas=30_000_000, price=10**12)  # 30 ether: more than 64 bits hold
    spend(db, 3, Kind.CLAIM, 0)
    for _ in range(2):
        spend(db, 1, Kind.COLLECT, 1, 2, 3)
        spend(db, 3, Kind.CLAIM, 0)
    assert totals(db) == {
        "collect": Total(2, 30_000_100, 30 * ETHER + 700),
        "claim": Total(1, 100, 700),
    }


def test_record__for_other_batches_as_well__is_paid_once(db: Connection) -> None:
    """One that collected several, was undone by a reorg, mined again and reverted: each batch finds it."""
    spend(db, 1, Kind.COLLECT, 1)
    spend(db, 1, Kind.COLLECT, 2, 3)
    assert totals(db) == {"collect": Total(1, 100, 700)} == summed(db)


@pytest.mark.parametrize("attempts", [(1,), (1, 2), (2, 1)])
def test_correct__mined_again_at_another_price__costs_what_it_does_now(
    db: Connection, attempts: tuple[int, ...]
) -> None:
    spend(db, 1, Kind.COLLECT, 1, 2)
    spend(db, 7, Kind.CLAIM, 0)
    mined = mined_intent(attempts, attempts[-1], gas=50, price=9)
    for _ in range(2):
        with db.transaction():
            for one in (mined, replace(mined, state=IntentState.PENDING), replace(mined, receipt=None)):
                correct(db, one)
        assert totals(db) == {"collect": Total(1, 50, 450), "claim": Total(1, 100, 700)}
        rows = db.execute("SELECT tx_hash, batch FROM spending WHERE kind = 'collect' ORDER BY batch")
        assert rows.fetchall() == [(hex_bytes(tx(attempts[-1]).transaction_hash), n) for n in (1, 2)]


def test_correct__not_in_the_books__is_none_of_theirs(db: Connection) -> None:
    with db.transaction():
        correct(db, mined_intent((1,), 1, gas=50, price=9))
    assert totals(db) == {}


def test_correct_costs__outbox_read_on_the_way__keeps_nobody_from_the_log(
    database: Database, db: Connection
) -> None:
    """Whoever sends has the outbox and waits for the log: the two must not be waited for crosswise."""
    spend(db, 1, Kind.POST, 1)
    spend(db, 2, Kind.POST, 2)

    def read() -> Iterator[Intent]:
        for number in (1, 2):
            spend(db, 10 + number, Kind.DEFEND, 0)
            yield mined_intent((number,), number, gas=50, price=9)

    with closing(BatchStore(database, NODE)) as store:
        store.correct_costs(read())
    assert totals(db) == {"post": Total(2, 100, 900), "defend": Total(2, 200, 1400)}


def mined_intent(attempts: Sequence[int], mined: int, *, gas: int, price: int) -> Intent:
    zero = "0x" + "00" * 32
    receipt = {"transactionHash": hex_bytes(tx(mined).transaction_hash), "blockHash": zero, "logs": []}
    receipt |= {"blockNumber": "0x1", "status": "0x1", "contractAddress": None}
    receipt |= {"gasUsed": hex(gas), "effectiveGasPrice": hex(price), "from": NODE, "to": NODE}
    tries = tuple(Attempt(tx(number).transaction_hash, b"", Fees(1, 1), 0.0) for number in attempts)
    return Intent(1, "key", 0, Call(NODE, b"", "label", 0), 1, IntentState.MINED, tries, receipt)


def test_record__transaction_rolled_back__adds_nothing(db: Connection) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction():
        record(db, Kind.POST, tx(1), [(1, None)])
        1 / 0  # noqa: B018
    assert totals(db) == {}


@pytest.mark.parametrize("seed", range(5))
def test_totals__any_order_of_records_and_reorgs__are_the_table_s(
    database: Database, db: Connection, seed: int
) -> None:
    chance = random.Random(seed)
    for step in range(60):
        kind = chance.choice(list(Kind))
        if chance.random() < 0.3:
            with db.transaction():
                number = 100 * list(Kind).index(kind) + chance.randrange(10)
                forget(db, hex_bytes(tx(number).transaction_hash))
        else:
            batches = chance.sample(range(4), chance.randint(1, 3))
            number = 100 * list(Kind).index(kind) + chance.randrange(10)
            spend(db, number, kind, *batches, gas=chance.randrange(10**6), price=chance.randrange(10**13))
        if step % 20 == 19:
            with closing(database.connect()) as again:  # as after a restart
                found = totals(again)
                assert {kind: total for kind, total in found.items() if total.transactions} == summed(again)
                assert all(total == Total(0, 0, 0) for total in found.values() if not total.transactions)


def test_record__several_writers_at_once__loses_nothing(database: Database, db: Connection) -> None:
    def write(first: int) -> None:
        with closing(database.connect()) as connection:
            for number in range(first, first + 15):
                spend(connection, number, Kind.DEFEND, 0, gas=1 + number, price=10**12)

    threads = [Thread(target=write, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert totals(db) == summed(db)
    assert totals(db)["defend"].transactions == 60


def test_prepare_database__log_of_the_fifth_schema__is_summed_up(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    meta = {"schema": "5", "node": NODE, "chain_id": "1", "settlement": NODE}
    rows = [(hex_bytes(bytes([1])), batch, "post") for batch in (1, 2)]
    rows += [(hex_bytes(bytes([2])), 3, "post"), (hex_bytes(bytes([3])), 0, "claim")]
    with closing(sqlite3.connect(path)) as db:
        for script in (TABLES, *(MIGRATIONS[number] for number in range(2, 6))):
            db.executescript(script)
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        db.executemany(
            "INSERT INTO spending (tx_hash, batch, kind, gas, wei) VALUES (?, ?, ?, 50, ?)",
            [(*row, to_blob(20 * ETHER)) for row in rows],
        )
        db.commit()
    with closing(prepare_database(SqliteDatabase(path), DOMAIN, NODE)) as log:
        assert totals(log) == {"post": Total(2, 150, 60 * ETHER), "claim": Total(1, 50, 20 * ETHER)}
        spend(log, 9, Kind.POST, 9)
        assert totals(log)["post"] == Total(3, 250, 60 * ETHER + 700)


def test_prepare_database__log_of_the_sixth_schema__has_what_it_collected_for_good(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    meta = {"schema": "6", "node": NODE, "chain_id": "1", "settlement": NODE}
    with closing(sqlite3.connect(path)) as db:
        for script in (TABLES, *(MIGRATIONS[number] for number in range(2, 7))):
            db.executescript(script)
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        db.execute(
            "INSERT INTO batches (batch_id, version_id, receipts_root, receipts, state, closed_at, posted_at)"
            " VALUES (x'01', x'02', x'03', 1, 'collected', 1, 2)"
        )
        db.commit()
    prepare_database(SqliteDatabase(path), DOMAIN, NODE).close()
    store = BatchStore(SqliteDatabase(path), NODE)
    assert store.unsettled(9) == []
    (batch,) = store.in_state(BatchState.COLLECTED)
    store.close()
    assert (batch.collect_key, batch.collected_block) == (None, None)


def test_read_log__long_table_of_spending__costs_as_much_as_a_short_one(tmp_path: Path) -> None:
    """In steps of SQLite's machine."""
    database = SqliteDatabase(tmp_path / "log.sqlite3")
    prepare_database(database, DOMAIN, NODE).close()
    raw = database.open_file()
    steps = [0]

    def count() -> int:
        steps[0] += 1
        return 0

    def cost() -> int:
        raw.set_progress_handler(None, 0)
        connection = SqliteConnection(raw, "log")
        read_log(Metrics(1.0), connection)
        steps[0] = 0
        raw.set_progress_handler(count, 1)
        read_log(Metrics(1.0), connection)
        raw.set_progress_handler(None, 0)
        return steps[0]

    with closing(raw):
        connection = SqliteConnection(raw, "log")
        spend(connection, 1, Kind.POST, 1)
        before = cost()
        with connection.transaction():
            for number in range(2, 1_000):
                record(connection, Kind.POST, tx(number), [(number, None)])
        assert before > 20 and cost() == before
