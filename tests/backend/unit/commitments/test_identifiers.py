import pytest
from assay.commitments import identifiers
from assay.errors import RequestError
from assay.types import BatchKey, Hash32
from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

addresses = st.binary(min_size=20, max_size=20)
hashes = st.binary(min_size=32, max_size=32).map(Hash32)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=64)


@given(addresses)
def test_checksum_address__any_bytes__equals_eth_utils(raw: bytes) -> None:
    address = identifiers.checksum_address(raw)
    assert address == to_checksum_address(raw)
    assert identifiers.checksum_address(address.lower()) == address
    assert identifiers.checksum_address(str(address)) == address
    assert identifiers.address_bytes(address) == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "0x" + "0" * 39,
        "0x" + "0" * 41,
        "0x" + "g" * 40,
        "00" * 21,
        "0x" + "0" * 40 + "\n",
        "0x5FbDB2315678afecb367f032d93F642f64180aA3",
    ],
)
def test_checksum_address__malformed__raises(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        identifiers.checksum_address(text)


@given(addresses, names)
def test_model_id__any_name__equals_abi_encoding(raw: bytes, name: str) -> None:
    publisher = identifiers.checksum_address(raw)
    expected = keccak(encode(["address", "string"], [publisher, name]))
    assert identifiers.model_id(publisher, name) == expected


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "ü", "a\n", "x" * 65])
def test_model_id__name_outside_charset__is_refused(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        identifiers.model_id(identifiers.checksum_address(bytes(20)), name)
    assert caught.value.code == "model_name"


@given(hashes, st.integers(1, (1 << 256) - 1))
def test_version_id__any_number__equals_abi_encoding(model: Hash32, number: int) -> None:
    assert identifiers.version_id(model, number) == keccak(encode(["bytes32", "uint256"], [model, number]))


def test_version_id__zero__raises() -> None:
    with pytest.raises(ValueError, match="start at 1"):
        identifiers.version_id(Hash32(bytes(32)), 0)


@given(addresses, hashes, hashes)
def test_batch_id__any_key__equals_abi_encoding(raw: bytes, version: Hash32, root: Hash32) -> None:
    node = identifiers.checksum_address(raw)
    expected = keccak(encode(["address", "bytes32", "bytes32"], [node, version, root]))
    assert identifiers.batch_id(BatchKey(node, version, root)) == expected


def test_cid__known_content__equals_the_published_cid() -> None:
    """`hello world` as a raw block, as IPFS names it."""
    digest = identifiers.artifact_digest(b"hello world")
    assert identifiers.cid(digest) == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@given(hashes)
def test_digest_from_cid__round_trip__is_the_digest(digest: Hash32) -> None:
    assert identifiers.digest_from_cid(identifiers.cid(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bafkrei",
        "Qm" + "a" * 44,
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
        "b1",
    ],
)
def test_digest_from_cid__other_form__raises(text: str) -> None:
    with pytest.raises(ValueError, match="CIDv1"):
        identifiers.digest_from_cid(text)


def test_digest_from_cid__trailing_bits_set__raises() -> None:
    text = identifiers.cid(bytes(32))
    with pytest.raises(ValueError, match="CIDv1"):
        identifiers.digest_from_cid(text[:-1] + "b")
