"""A node finds the log that knows its sequences, or does not start."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from assay.errors import ConfigurationError
from assay.node.config import LOG_FILE, LogConfig, NodeConfig
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.log_place import SHARED_MARK, log_database, mark_place, open_log
from assay.node.receipts.postgresql import PostgresDatabase

from tests.backend.unit.node.receipts.test_log import DOMAIN, KEY, NODE, SIGNER, issue
from tests.support.postgresql import Cluster

URL = "postgresql://assay@db.example/receipts"


def config(**log: Any) -> NodeConfig:
    return NodeConfig(
        operator="0x" + "11" * 20,
        endpoint="http://h",
        rpc_urls=["http://r"],
        chain_id=1,
        deployments="d",
        hub_url="http://u",
        log=LogConfig(**log),
    )


def of(url: str) -> NodeConfig:
    return config(url=url).model_copy(update={"operator": NODE})


def test_log_database__no_url__is_a_file(tmp_path: Path) -> None:
    database = log_database(tmp_path, config())
    assert isinstance(database, SqliteDatabase)
    assert database.path == tmp_path / LOG_FILE
    mark_place(tmp_path, database)
    assert not (tmp_path / SHARED_MARK).exists()


def test_log_database__url__is_shared_and_remembered(tmp_path: Path) -> None:
    database = log_database(tmp_path, config(url=URL))
    assert isinstance(database, PostgresDatabase)
    assert database.is_shared
    mark_place(tmp_path, database)
    assert isinstance(log_database(tmp_path, config(url=URL)), PostgresDatabase)
    with pytest.raises(
        ConfigurationError, match=r"postgresql://db\.example:5432/receipts.*name that log again"
    ):
        log_database(tmp_path, config())


def test_log_database__url_beside_receipts_of_its_own__is_refused(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).touch()
    with pytest.raises(ConfigurationError, match="move-log"):
        log_database(tmp_path, config(url=URL))


@pytest.mark.network
def test_open_log__empty_database_where_the_node_has_signed_into_one__is_refused(
    tmp_path: Path, postgresql: Cluster
) -> None:
    """A volume that was lost, another database named by mistake: there the next receipt would be the first
    again."""
    with postgresql.schema() as lost, postgresql.schema() as empty:
        for _ in range(2):
            with closing(open_log(tmp_path, of(lost), DOMAIN)) as log:
                log.write([issue(1 + log.channel(KEY).sequence)], SIGNER)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"there is no log .* the log of before back"):
                open_log(tmp_path, of(empty), DOMAIN)
        with closing(open_log(tmp_path, of(lost), DOMAIN)) as log:
            assert log.channel(KEY).sequence == 2
        other = tmp_path / "other"
        other.mkdir()
        open_log(other, of(empty), DOMAIN).close()
