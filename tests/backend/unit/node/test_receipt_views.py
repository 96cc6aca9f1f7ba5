"""What a node says of a receipt: its tensors, and that a repetition does not fit it."""

from __future__ import annotations

from pathlib import Path

import pytest
from assay.commitments.signing import SigningKey
from assay.node.engines.engine import Result
from assay.node.errors import NotFound, NotReproducible
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import ChannelKey, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog
from assay.node.service import check_repeated
from assay.node.views import receipt_data
from assay.types import ZERO_ADDRESS, Address, Domain, Hash32

from tests.backend.unit.node.receipts.test_log import DATA

DOMAIN = Domain(31337, Address("0x" + "11" * 20))
SIGNER = SigningKey(b"\x08" * 32)
HASHES = Hash32(b"\x21" * 32), Hash32(b"\x22" * 32)


class Issued:
    """A log with one receipt in it."""

    def __init__(self, folder: Path, *, public: bool) -> None:
        self.database = SqliteDatabase(folder / "log.sqlite3")
        self.log = ReceiptLog(self.database, DOMAIN, SIGNER.address)
        issue = Issue(
            ChannelKey(Hash32(b"\x01" * 32), ZERO_ADDRESS), *HASHES, 0, data=DATA.to_bytes(), public=public
        )
        (logged,) = self.log.write([issue], SIGNER)
        assert isinstance(logged, LoggedReceipt)
        self.receipt = logged

    def code(self, digest: bytes) -> str:
        with pytest.raises(NotFound) as caught:
            receipt_data(self.log, digest)
        return caught.value.code


def test_receipt_data__public__is_given(tmp_path: Path) -> None:
    issued = Issued(tmp_path, public=True)
    assert receipt_data(issued.log, issued.receipt.digest).startswith(b"{")
    issued.log.close()


def test_receipt_data__private_or_unknown__refused(tmp_path: Path) -> None:
    issued = Issued(tmp_path, public=False)
    assert issued.code(issued.receipt.digest) == "private"
    assert issued.code(bytes(32)) == "not_found"
    issued.log.close()


def test_receipt_data__window_passed__expired(tmp_path: Path) -> None:
    issued = Issued(tmp_path, public=True)
    connection = issued.database.connect()
    connection.execute("DELETE FROM receipt_data")
    connection.close()
    assert issued.code(issued.receipt.digest) == "expired"
    issued.log.close()


def test_check_repeated__same_output__passes_another_is_not_reproducible(tmp_path: Path) -> None:
    issued = Issued(tmp_path, public=False)
    check_repeated(issued.receipt, Result((), HASHES[1]))
    with pytest.raises(NotReproducible) as caught:
        check_repeated(issued.receipt, Result((), HASHES[0]))
    assert (caught.value.status, caught.value.code) == (500, "not_reproducible")
    issued.log.close()
