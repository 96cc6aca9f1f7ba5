import os
import time
from pathlib import Path

import pytest
from assay.commitments.identifiers import artifact_digest
from assay.hub.spool import PART_SECONDS, Spool

DIGEST = artifact_digest(b"content")


def test_part__written_twice__goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.offset(DIGEST) == 0
    for expected in (0, 3):
        with spool.part(DIGEST) as upload:
            assert upload.size == expected
            upload.write(b"abc")
    assert Spool(tmp_path).offset(DIGEST) == 6
    spool.discard(DIGEST)
    assert spool.offset(DIGEST) == 0


def test_whole__broken__leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), Spool(tmp_path).whole() as upload:
        upload.write(b"abc")
        raise ConnectionError
    assert not list(tmp_path.iterdir())


def test_spool__opened_after_a_kill__drops_whole_uploads_and_keeps_parts(tmp_path: Path) -> None:
    (tmp_path / "x.whole").touch()
    (tmp_path / f"{DIGEST.hex()}.part").write_bytes(b"abc")
    assert Spool(tmp_path).offset(DIGEST) == 3
    assert not (tmp_path / "x.whole").exists()


def test_prune__part_untouched_for_a_day__is_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.part(DIGEST) as upload:
        upload.write(b"abc")
    spool.prune()
    assert spool.offset(DIGEST) == 3
    os.utime(tmp_path / f"{DIGEST.hex()}.part", (0, time.time() - PART_SECONDS - 60))
    spool.prune()
    assert spool.offset(DIGEST) == 0
