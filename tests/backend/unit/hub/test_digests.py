import io
from pathlib import Path

import pytest
from assay.commitments.identifiers import artifact_digest, cid
from assay.errors import RequestError, VerificationError
from assay.hub import digests

DIGEST = artifact_digest(b"content")


@pytest.mark.parametrize("text", [DIGEST.hex(), "0x" + DIGEST.hex(), cid(DIGEST)])
def test_parse_digest__each_form__is_the_digest(text: str) -> None:
    assert digests.parse_digest(text) == DIGEST


@pytest.mark.parametrize(
    "text",
    ["", "0x", DIGEST.hex()[:-1], DIGEST.hex() + "0", DIGEST.hex().upper(), "../" + DIGEST.hex(), "bafk"],
)
def test_parse_digest__other_text__is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        digests.parse_digest(text)
    assert caught.value.code == "digest_invalid"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_file_digest__path_and_open_file__equal_sha256(size: int, tmp_path: Path) -> None:
    content = bytes(size)
    (tmp_path / "file").write_bytes(content)
    expected = artifact_digest(content)
    assert digests.file_digest(tmp_path / "file") == digests.file_digest(io.BytesIO(content)) == expected


def test_check_digest__other_digest__names_the_hub_and_step() -> None:
    digests.check_digest(DIGEST, DIGEST, "hub x")
    with pytest.raises(VerificationError, match="hub x sent") as caught:
        digests.check_digest(DIGEST, artifact_digest(b""), "hub x")
    assert caught.value.step == "artifact_digest"
