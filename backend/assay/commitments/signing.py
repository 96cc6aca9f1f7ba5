"""secp256k1 signatures (SPEC.md §3): 65 bytes r ‖ s ‖ v, v ∈ {27, 28}, s ≤ n/2; libsecp256k1 by coincurve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

import coincurve
from coincurve import GLOBAL_CONTEXT
from coincurve._libsecp256k1 import ffi, lib

from assay.commitments.identifiers import checksum_address, keccak
from assay.errors import ConfigurationError, VerificationError
from assay.types import Address

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""n of secp256k1 (SEC 2, §2.4.1)."""
HALF_ORDER = CURVE_ORDER // 2
_ZERO = bytes(32)
_HALF_ORDER_BYTES = HALF_ORDER.to_bytes(32, "big")
_REMEMBERED: Final = 65_536
_keys: dict[Address, bytes] = {}
"""The public key, as libsecp256k1 holds it in this process, of accounts whose signatures were good."""


class SigningKey:
    """A secp256k1 key that signs digests. No repr, pickle, copy or traceback gives its secret away.

    Raises ConfigurationError if `secret` is not 32 bytes in 1…n - 1; its message holds no secret.
    """

    __slots__ = ("__sign", "address")

    address: Address

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32 or not 0 < int.from_bytes(secret, "big") < CURVE_ORDER:
            del secret
            raise ConfigurationError(
                "a signing key is 32 bytes from 1 to n - 1 of secp256k1; this one is not"
            )
        self.__sign = _signer(secret)
        self.address = _address_of(coincurve.PrivateKey(secret).public_key)

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh random key."""
        return cls(coincurve.PrivateKey().secret)

    def sign(self, digest: bytes) -> bytes:
        """65 bytes r ‖ s ‖ v over a 32-byte digest; deterministic (RFC 6979), low s."""
        if len(digest) != 32:
            raise ValueError(f"a digest has 32 bytes, got {len(digest)}")
        return self.__sign(digest)

    def __repr__(self) -> str:
        return f"SigningKey({self.address})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SigningKey is not copied or pickled: it would carry the secret")


def _signer(secret: bytes) -> Callable[[bytes], bytes]:
    """libsecp256k1's own calls: coincurve's wrapping of them costs a tenth of the signature."""
    context, null = GLOBAL_CONTEXT.ctx, ffi.NULL
    sign, serialize = (
        lib.secp256k1_ecdsa_sign_recoverable,
        lib.secp256k1_ecdsa_recoverable_signature_serialize_compact,
    )

    def signed(digest: bytes) -> bytes:
        signature: Any = ffi.new("secp256k1_ecdsa_recoverable_signature *")
        if not sign(context, signature, digest, secret, null, null):
            raise ValueError("libsecp256k1 did not sign")
        raw, recovery = ffi.new("unsigned char[64]"), ffi.new("int *")
        serialize(context, raw, recovery, signature)
        return bytes(ffi.buffer(raw)) + (b"\x1b", b"\x1c")[recovery[0]]

    return signed


def is_signed_by(digest: bytes, signature: bytes, expected: Address) -> bool:
    """Whether `expected` signed the 32-byte digest: `recover` for who expects an account, without a word on
    what is wrong. Keys of accounts whose signatures were good are remembered."""
    if len(signature) != 65 or len(digest) != 32:
        return False
    recovery = signature[64] - 27
    if recovery not in (0, 1) or signature[32:64] > _HALF_ORDER_BYTES:
        return False
    context = GLOBAL_CONTEXT.ctx
    parsed: Any = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    key: Any = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ecdsa_recoverable_signature_parse_compact(
        context, parsed, signature[:64], recovery
    ) or not lib.secp256k1_ecdsa_recover(context, key, parsed, digest):
        return False
    held = bytes(ffi.buffer(key))
    if _keys.get(expected) == held:
        return True
    if _address_of(coincurve.PublicKey(key)) != expected:
        return False
    if len(_keys) >= _REMEMBERED:
        _keys.clear()
    _keys[expected] = held
    return True


def _address_of(public_key: coincurve.PublicKey) -> Address:
    return checksum_address(bytes(keccak(public_key.format(compressed=False)[1:])[12:]))


def check_signature_form(signature: bytes) -> None:
    """Raises VerificationError unless the bytes are 65, v 27 or 28, r and s non-zero, s in the lower half.

    Steps: `signature_length`, `signature_v`, `signature_zero`, `signature_high_s`.
    """
    if len(signature) != 65:
        raise VerificationError(
            f"signature has {len(signature)} bytes, expected 65 (r, s, v)", step="signature_length"
        )
    if signature[64] not in (27, 28):
        raise VerificationError(f"signature has v = {signature[64]}, expected 27 or 28", step="signature_v")
    if _ZERO in (signature[:32], signature[32:64]):
        raise VerificationError("signature has a zero r or s", step="signature_zero")
    if signature[32:64] > _HALF_ORDER_BYTES:
        raise VerificationError(
            "signature has s above n/2 (malleable); normalise it", step="signature_high_s"
        )


def recover(digest: bytes, signature: bytes) -> Address:
    """The account that signed the 32-byte `digest`.

    Raises VerificationError: the steps of `check_signature_form` and `signature_recovery`.
    """
    if len(digest) != 32:
        raise ValueError(f"a digest has 32 bytes, got {len(digest)}")
    check_signature_form(signature)
    try:
        key = coincurve.PublicKey.from_signature_and_message(
            signature[:64] + bytes((signature[64] - 27,)), digest, hasher=None
        )
    except ValueError:
        raise VerificationError(
            "signature recovers to no key: r is not on the curve", step="signature_recovery"
        ) from None
    return _address_of(key)


def verify_signer(digest: bytes, signature: bytes, expected: Address) -> None:
    """Raises VerificationError (step `signature_signer`) unless `expected` signed, or as `recover` does."""
    signer = recover(digest, signature)
    if signer != expected:
        raise VerificationError(f"signed by {signer}, expected {expected}", step="signature_signer")


def compact(signature: bytes) -> tuple[bytes, bytes]:
    """EIP-2098 form (r, vs), 32 bytes each, of a well-formed 65-byte signature. Raises VerificationError."""
    check_signature_form(signature)
    parity = signature[64] - 27
    return signature[:32], bytes((signature[32] | parity << 7,)) + signature[33:64]


def expand(r: bytes, vs: bytes) -> bytes:
    """The 65 bytes of an EIP-2098 pair of 32-byte halves; whether they are well-formed is for `recover`."""
    return r + bytes((vs[0] & 0x7F,)) + vs[1:] + bytes((27 + (vs[0] >> 7),))
