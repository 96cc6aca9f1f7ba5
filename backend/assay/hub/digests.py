"""How artifacts are named at the edges, and what goes wrong with them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from assay.commitments.identifiers import digest_from_cid
from assay.errors import RequestError, VerificationError
from assay.types import Hash32

MAX_ARTIFACT_BYTES = 2 << 30
"""ONNX files cannot exceed protobuf's 2 GiB."""
_READ_BYTES = 1 << 20
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ArtifactUnknownError(RequestError):
    """The hub has no artifact of this digest."""

    def __init__(self, digest: Hash32, where: str) -> None:
        super().__init__(
            f"{where} has no artifact {digest.hex()}; check the digest, or put the file there",
            status=404,
            code="artifact_unknown",
        )
        self.digest = digest


class ArtifactTooLargeError(RequestError):
    """An artifact is above the cap."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the artifact is larger than the {limit:,} bytes that are taken", status=413, code="too_large"
        )
        self.limit = limit


class DigestMismatchError(RequestError):
    """Uploaded bytes are not what their digest promised."""

    def __init__(self, expected: Hash32, actual: Hash32) -> None:
        super().__init__(
            f"the body's sha256 is {actual.hex()}, expected {expected.hex()}; was the file changed or cut?",
            status=422,
            code="digest_mismatch",
        )
        self.expected = expected
        self.actual = actual


def parse_digest(text: str) -> Hash32:
    """sha256 of 64 lower-case hexadecimal digits, with or without 0x, or a CIDv1. Raises RequestError."""
    digits = text.removeprefix("0x")
    if _HEX.fullmatch(digits):
        return Hash32(bytes.fromhex(digits))
    try:
        return digest_from_cid(text)
    except ValueError:
        raise RequestError(
            f"{text[:80]!r} is neither a sha256 in 64 lower-case hexadecimal digits nor a CIDv1 (bafkrei…)",
            code="digest_invalid",
        ) from None


def file_digest(file: Path | BinaryIO) -> Hash32:
    """sha256 of a file, or of what is left of an open one; releases the GIL."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return file_digest(opened)
    digest = hashlib.sha256()
    while piece := file.read(_READ_BYTES):
        digest.update(piece)
    return Hash32(digest.digest())


def check_digest(expected: Hash32, actual: Hash32, where: str) -> None:
    """Raises VerificationError, step `artifact_digest`: what came from `where` is not what was asked for."""
    if actual != expected:
        raise VerificationError(
            f"{where} sent bytes of sha256 {actual.hex()} for artifact {expected.hex()}; use another hub",
            step="artifact_digest",
        )
