import json
from pathlib import Path

import pytest
from assay.cli import main
from assay.commitments.identifiers import artifact_digest, cid
from click.testing import CliRunner

CONTENT = b"content"
DIGEST = artifact_digest(CONTENT)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSAY_HUB_URL", str(tmp_path / "store"))
    (tmp_path / "file").write_bytes(CONTENT)
    return CliRunner()


def test_put_and_get__json__tell_digest_and_file(cli: CliRunner, tmp_path: Path) -> None:
    done = cli.invoke(main, ["hub", "put", "file", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output) == {"sha256": DIGEST.hex(), "cid": cid(DIGEST), "bytes": 7}
    for name in (cid(DIGEST), DIGEST.hex()):
        done = cli.invoke(main, ["hub", "get", name, "-o", f"out-{name[:4]}"])
        assert done.exit_code == 0
        assert (tmp_path / f"out-{name[:4]}").read_bytes() == CONTENT


def test_get__unknown__exits_2_with_one_line(cli: CliRunner, tmp_path: Path) -> None:
    done = cli.invoke(main, ["hub", "get", DIGEST.hex(), "--json"])
    assert done.exit_code == 2
    assert json.loads(done.output)["code"] == "artifact_unknown"
    assert not (tmp_path / DIGEST.hex()).exists()


def test_get__no_digest__exits_2(cli: CliRunner) -> None:
    done = cli.invoke(main, ["hub", "get", "nonsense"])
    assert done.exit_code == 2
    assert "nonsense" in done.output


def test_run__store_cannot_be_opened__exits_5(cli: CliRunner) -> None:
    done = cli.invoke(main, ["hub", "run", "--store", "nonsense://x"])
    assert done.exit_code == 5
    assert "give a folder" in done.output.replace("\n", " ")
