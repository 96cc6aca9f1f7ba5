"""A node's receipts taken into a shared log: it goes on with the next sequence, never from the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from assay.chain.outbox import Outbox
from assay.errors import ConfigurationError
from assay.node.config import LOG_FILE, OUTBOX_FILE, NodeConfig
from assay.node.move_log import move_log
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import ChannelKey, LoggedReceipt
from assay.node.receipts.log import ReceiptLog, read_data
from assay.node.receipts.log_place import log_database
from assay.node.receipts.postgresql import PostgresDatabase
from assay.node.settlement.leadership import Candidate
from assay.node.settlement.shared_outbox import SharedOutbox
from assay.types import Hash32

from tests.backend.unit.node.receipts.test_log import CONSUMER, DATA, DOMAIN, KEY, NODE, SIGNER, issue
from tests.backend.unit.node.receipts.test_log_place import config
from tests.backend.unit.node.settlement.test_leadership import intent
from tests.support.postgresql import Cluster

pytestmark = pytest.mark.network


@pytest.fixture
def settings(postgresql: Cluster) -> Iterator[NodeConfig]:
    with postgresql.schema() as url:
        yield config(url=url).model_copy(update={"operator": NODE})


@pytest.fixture
def receipts(tmp_path: Path) -> list[LoggedReceipt]:
    other = ChannelKey(Hash32(b"\x02" * 32), CONSUMER)
    with closing(ReceiptLog(SqliteDatabase(tmp_path / LOG_FILE), DOMAIN, NODE)) as log:
        items = [
            issue(1),
            replace(issue(2), data=DATA.to_bytes(), public=True),
            issue(1, key=other, payment=9),
        ]
        return [one for one in log.write(items, SIGNER) if isinstance(one, LoggedReceipt)]


def test_move_log__receipts_and_outbox__go_on_in_the_shared_log(
    tmp_path: Path, settings: NodeConfig, receipts: list[LoggedReceipt]
) -> None:
    with Outbox(tmp_path / OUTBOX_FILE) as outbox:
        outbox.add(1, CONSUMER, intent("post:1", 4))
    copied = move_log(tmp_path, settings, DOMAIN)
    assert (copied["receipts"], copied["channels"], copied["receipt_data"], copied["intents"]) == (3, 2, 1, 1)
    database = log_database(tmp_path, settings)
    assert isinstance(database, PostgresDatabase)
    with closing(ReceiptLog(database, DOMAIN, NODE)) as log:
        assert [log.receipt(one.digest) for one in receipts] == receipts
        with database.session() as connection:
            assert read_data(connection, receipts[1].digest) == DATA
        (third,) = log.write([issue(3)], SIGNER)
        assert isinstance(third, LoggedReceipt)
        assert third.signed.receipt.sequence == 3
        assert log.channel(KEY).charged == 15
    with closing(Candidate(database, DOMAIN, NODE)) as candidate:
        lease = candidate.acquire()
        assert lease is not None
        taken = SharedOutbox(lease)
        assert [one.key for one in taken.pending(1, CONSUMER)] == ["post:1"]
        assert taken.add(1, CONSUMER, intent("post:2", 5)).id > 1
        lease.release()
    with pytest.raises(ConfigurationError, match="name that log again"):
        log_database(tmp_path, config().model_copy(update={"operator": NODE}))
    with pytest.raises(ConfigurationError, match="to move"):
        move_log(tmp_path, settings, DOMAIN)


@pytest.mark.usefixtures("receipts")
def test_move_log__shared_log_that_has_receipts__is_refused(tmp_path: Path, settings: NodeConfig) -> None:
    with closing(ReceiptLog(PostgresDatabase(settings.log.url), DOMAIN, NODE)) as log:
        log.write([issue(1)], SIGNER)
    with pytest.raises(ConfigurationError, match="holds receipts"):
        move_log(tmp_path, settings, DOMAIN)
    assert (tmp_path / LOG_FILE).exists()


def test_move_log__no_url__says_where_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\[log\] url"):
        move_log(tmp_path, config(), DOMAIN)
