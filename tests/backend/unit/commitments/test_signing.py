import copy
import pickle
import traceback

import pytest
from assay.commitments import signing
from assay.errors import ConfigurationError, VerificationError
from eth_keys.datatypes import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

secrets = st.integers(1, signing.CURVE_ORDER - 1).map(lambda n: n.to_bytes(32, "big"))
digests = st.binary(min_size=32, max_size=32)
SECRET = bytes(range(1, 33))


@given(secrets, digests)
def test_sign__any_key_and_digest__recovers_and_equals_eth_keys(secret: bytes, digest: bytes) -> None:
    key, other = signing.SigningKey(secret), PrivateKey(secret)
    signature = key.sign(digest)
    reference = other.sign_msg_hash(digest)
    assert key.address == other.public_key.to_checksum_address()
    assert signature == reference.to_bytes()[:64] + bytes((reference.v + 27,))
    assert signing.recover(digest, signature) == key.address


@given(secrets, digests)
def test_compact__any_signature__expands_to_itself(secret: bytes, digest: bytes) -> None:
    signature = signing.SigningKey(secret).sign(digest)
    r, vs = signing.compact(signature)
    number = (signature[64] - 27) << 255 | int.from_bytes(signature[32:64], "big")
    assert (r, vs) == (signature[:32], number.to_bytes(32, "big"))
    assert signing.expand(r, vs) == signature


@given(st.binary(max_size=70), digests)
def test_recover__any_bytes__gives_an_address_or_a_named_step(raw: bytes, digest: bytes) -> None:
    try:
        assert signing.recover(digest, raw).startswith("0x")
    except VerificationError as error:
        assert error.step.startswith("signature_")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_sign__digest_of_wrong_size__raises(size: int) -> None:
    key = signing.SigningKey(SECRET)
    with pytest.raises(ValueError, match="32 bytes"):
        key.sign(bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        signing.recover(bytes(size), key.sign(bytes(32)))


def test_verify_signer__another_account__names_both() -> None:
    key, other = signing.SigningKey(SECRET), signing.SigningKey.generate()
    signature = key.sign(bytes(32))
    signing.verify_signer(bytes(32), signature, key.address)
    with pytest.raises(VerificationError, match=f"{key.address}, expected {other.address}") as caught:
        signing.verify_signer(bytes(32), signature, other.address)
    assert caught.value.step == "signature_signer"


def test_generate__twice__gives_different_keys() -> None:
    assert signing.SigningKey.generate().address != signing.SigningKey.generate().address


@pytest.mark.parametrize(
    "secret",
    [b"", bytes(32), SECRET[:31], SECRET + b"\0", signing.CURVE_ORDER.to_bytes(32, "big"), b"\xff" * 32],
)
def test_signing_key__impossible_secret__is_refused_without_showing_it(secret: bytes) -> None:
    with pytest.raises(ConfigurationError) as caught:
        signing.SigningKey(secret)
    frames = [f for f, _ in traceback.walk_tb(caught.value.__traceback__) if f.f_code.co_name == "__init__"]
    assert frames
    assert all("secret" not in frame.f_locals for frame in frames)
    assert caught.value.__cause__ is None


def test_signing_key__shown_anywhere__hides_the_secret() -> None:
    key = signing.SigningKey(SECRET)
    shown = " ".join((repr(key), str(key), f"{key}", repr([key]), repr(dir(key))))
    assert key.address in shown
    assert SECRET.hex() not in shown
    assert str(SECRET) not in shown
    assert not hasattr(key, "__dict__")
    with pytest.raises(ValueError, match="32 bytes") as caught:
        key.sign(b"short")
    report = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert SECRET.hex() not in report
    assert repr(SECRET) not in report.replace("SECRET", "")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_signing_key__pickled__is_refused(protocol: int) -> None:
    with pytest.raises(TypeError, match="not copied or pickled"):
        pickle.dumps(signing.SigningKey(SECRET), protocol)


def test_signing_key__copied__is_refused() -> None:
    with pytest.raises(TypeError, match="not copied or pickled"):
        copy.copy(signing.SigningKey(SECRET))
    with pytest.raises(TypeError, match="not copied or pickled"):
        copy.deepcopy({"key": signing.SigningKey(SECRET)})
