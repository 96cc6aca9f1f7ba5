"""Identifiers of models, versions, batches, artifacts and accounts (SPEC.md §2)."""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from hashlib import sha256

import sha3

from assay.errors import RequestError
from assay.types import Address, BatchKey, Hash32

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_MODEL_NAME = re.compile(r"[a-z0-9\-_.]{1,64}", re.ASCII)
_CID_PREFIX = bytes((0x01, 0x55, 0x12, 0x20))
"""CIDv1, codec raw, multihash sha2-256 of 32 bytes (multiformats tables)."""


def keccak(data: bytes) -> Hash32:
    """Ethereum's keccak256 (not NIST's SHA3-256)."""
    return Hash32(sha3.keccak_256(data).digest())


@lru_cache(maxsize=1 << 16)
def checksum_address(address: bytes | str) -> Address:
    """EIP-55 form of 20 bytes or of a 0x string. Raises ValueError on other forms and on a wrong checksum."""
    text = "0x" + address.hex() if isinstance(address, bytes) else address
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"expected an address of 0x and 40 hexadecimal digits, got {text[:64]!r}")
    digits = text[2:].lower()
    nibbles = sha3.keccak_256(digits.encode()).hexdigest()
    result = "0x" + "".join(
        digit.upper() if nibble > "7" else digit for digit, nibble in zip(digits, nibbles, strict=False)
    )
    if text[2:] not in (digits, digits.upper(), result[2:]):
        raise ValueError(f"address {text} has a wrong EIP-55 checksum; did a digit change?")
    return Address(result)


def address_bytes(address: Address) -> bytes:
    """The 20 bytes of an address."""
    return bytes.fromhex(address[2:])


def address_word(address: Address) -> bytes:
    """The address as the ABI's 32-byte word."""
    return bytes(12) + bytes.fromhex(address[2:])


def check_model_name(name: str) -> str:
    """The name itself. Raises RequestError `model_name` unless it is 1–64 of `a-z 0-9 - _ .`."""
    if not _MODEL_NAME.fullmatch(name):
        raise RequestError(
            f"model name {name[:80]!r} is not 1 to 64 characters of a-z 0-9 - _ .; choose another",
            code="model_name",
        )
    return name


def model_id(publisher: Address, name: str) -> Hash32:
    """`keccak256(abi.encode(address publisher, string name))`. Raises RequestError `model_name`."""
    raw = check_model_name(name).encode()
    words = address_word(publisher) + (64).to_bytes(32, "big") + len(raw).to_bytes(32, "big")
    return keccak(words + raw + bytes(-len(raw) % 32))


def version_id(model: Hash32, number: int) -> Hash32:
    """`keccak256(abi.encode(bytes32 model_id, uint256 number))`; number from 1."""
    if number < 1:
        raise ValueError(f"version numbers start at 1, got {number}")
    return keccak(model + number.to_bytes(32, "big"))


def batch_id(key: BatchKey) -> Hash32:
    """`keccak256(abi.encode(address node, bytes32 version_id, bytes32 receipts_root))`."""
    return keccak(address_word(key.node) + key.version_id + key.receipts_root)


def artifact_digest(data: bytes) -> Hash32:
    return Hash32(sha256(data).digest())


def cid(digest: bytes) -> str:
    """CIDv1 (raw, sha2-256, base32 lower-case) of an artifact's sha256: `bafkrei…`."""
    if len(digest) != 32:
        raise ValueError(f"a sha256 digest has 32 bytes, got {len(digest)}")
    return "b" + base64.b32encode(_CID_PREFIX + digest).decode().rstrip("=").lower()


def digest_from_cid(text: str) -> Hash32:
    """The sha256 in a CIDv1 as `cid` writes it. Raises ValueError on any other form."""
    try:
        raw = base64.b32decode(text[1:].upper() + "=" * (-len(text[1:]) % 8)) if text.startswith("b") else b""
    except ValueError:
        raw = b""
    if len(raw) != 36 or raw[:4] != _CID_PREFIX or cid(raw[4:]) != text:
        raise ValueError(f"expected a CIDv1 of raw sha2-256 in base32 (bafkrei…), got {text[:80]!r}")
    return Hash32(raw[4:])
