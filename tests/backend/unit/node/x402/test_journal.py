"""A prepaid receipt that went through the journal is in the log's tables as if it were written there."""

from __future__ import annotations

from pathlib import Path

from assay.commitments.signing import SigningKey
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import ChannelKey, HeldVoucher, Issue, IssuedReceipt
from assay.node.receipts.importing import Importer
from assay.node.receipts.journal_entries import Entry, decode, encode
from assay.node.receipts.log import ReceiptLog
from assay.types import Address, Domain, Hash32

SIGNER = SigningKey(b"\x08" * 32)
KEY = ChannelKey(Hash32(b"\x01" * 32), SigningKey(b"\x09" * 32).address)
COLUMNS = "sequence, unpaid, charged, prepaid, amount, count"


def issues() -> list[Issue]:
    """A prepaid receipt, one of a voucher, another prepaid one."""
    made = []
    for number in (1, 2, 3):
        word = Hash32(bytes([number]) * 32)
        held = HeldVoucher(9, 1, b"\x05" * 65) if number == 2 else None
        made.append(Issue(KEY, word, word, 3 * number, held, word, prepaid=held is None))
    return made


def entry(number: int, item: Issue) -> Entry:
    digest = bytes([number]) * 32
    receipt = IssuedReceipt(digest, digest, digest, item.price, number, 1, b"\x06" * 65)
    (made,) = decode(encode(Entry(KEY, receipt, item.voucher, item.payment, None, item.public, item.prepaid)))
    return made


def test_write__prepaid_through_the_journal__leaves_the_channel_as_written_directly(tmp_path: Path) -> None:
    found = []
    for name in ("direct", "journal"):
        database = SqliteDatabase(tmp_path / name)
        log = ReceiptLog(database, Domain(1, Address("0x" + "11" * 20)), SIGNER.address)
        if name == "direct":
            log.write(issues(), SIGNER)
        else:
            connection = database.open_file()
            entries = [entry(number, item) for number, item in enumerate(issues(), 1)]
            Importer(connection).write(entries)
            Importer(connection).write(entries)  # again, after a crash
            connection.close()
        with database.session() as session:
            found.append(session.execute(f"SELECT {COLUMNS} FROM channels").fetchall())
        log.close()
    direct, journal = found
    assert direct == journal
    ((sequence, unpaid, charged, prepaid, _, _),) = direct
    assert (sequence, unpaid, charged[-1], prepaid[-1]) == (3, 2, 6, 12)
