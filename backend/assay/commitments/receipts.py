"""EIP-712 digests of receipts and vouchers (SPEC.md §3), the receipts tree, receipts as JSON (SPEC.md §7)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from assay.commitments.identifiers import address_word, keccak
from assay.commitments.merkle import MerkleTree
from assay.commitments.parsing import (
    UINT64_MAX,
    UINT128_MAX,
    UINT256_MAX,
    FieldError,
    check_range,
    get_field,
    parse_address,
    parse_decimal,
    parse_hash,
    parse_integer,
    parse_signature,
)
from assay.types import Domain, Hash32, Receipt, SignedReceipt, Voucher

DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
VOUCHER_TYPE = "Voucher(address consumer,address node,bytes32 versionId,uint128 amount,uint64 count)"
RECEIPT_TYPE = (
    "Receipt(address node,address consumer,bytes32 versionId,bytes32 inputHash,bytes32 outputHash,"
    "uint128 price,uint64 sequence,uint64 executedAt)"
)
DOMAIN_TYPEHASH = keccak(DOMAIN_TYPE.encode())
VOUCHER_TYPEHASH = keccak(VOUCHER_TYPE.encode())
RECEIPT_TYPEHASH = keccak(RECEIPT_TYPE.encode())
_DOMAIN_PREFIX = DOMAIN_TYPEHASH + keccak(b"Assay") + keccak(b"1")
_CODE = "receipt_invalid"


@lru_cache(maxsize=256)
def domain_separator(domain: Domain) -> Hash32:
    """EIP-712 hash of the domain (name `Assay`, version `1`)."""
    return keccak(_DOMAIN_PREFIX + domain.chain_id.to_bytes(32, "big") + address_word(domain.settlement))


def _word(value: int, field: str, maximum: int) -> bytes:
    return check_range(value, field, maximum).to_bytes(32, "big")


def receipt_digest(domain: Domain, receipt: Receipt) -> Hash32:
    """EIP-712 digest that the node's signer signs. Raises FieldError on a number outside its type."""
    struct_hash = keccak(
        b"".join(
            (
                RECEIPT_TYPEHASH,
                address_word(receipt.node),
                address_word(receipt.consumer),
                receipt.version_id,
                receipt.input_hash,
                receipt.output_hash,
                _word(receipt.price, "price", UINT128_MAX),
                _word(receipt.sequence, "sequence", UINT64_MAX),
                _word(receipt.executed_at, "executed_at", UINT64_MAX),
            )
        )
    )
    return keccak(b"\x19\x01" + domain_separator(domain) + struct_hash)


def voucher_digest(domain: Domain, voucher: Voucher) -> Hash32:
    """EIP-712 digest that the consumer signs. Raises FieldError on a number outside its type."""
    struct_hash = keccak(
        b"".join(
            (
                VOUCHER_TYPEHASH,
                address_word(voucher.consumer),
                address_word(voucher.node),
                voucher.version_id,
                _word(voucher.amount, "amount", UINT128_MAX),
                _word(voucher.count, "count", UINT64_MAX),
            )
        )
    )
    return keccak(b"\x19\x01" + domain_separator(domain) + struct_hash)


def voucher_words(voucher: Voucher) -> bytes:
    """What the struct hashes of all vouchers of a channel are made of in front: type, parties, version."""
    return VOUCHER_TYPEHASH + address_word(voucher.consumer) + address_word(voucher.node) + voucher.version_id


def digest_of_words(prefix: bytes, words: bytes, *numbers: int) -> Hash32:
    """The EIP-712 digest of a struct that ends in `numbers`, each within its type. `prefix`: 0x1901 and the
    domain's separator."""
    packed = 0
    for number in numbers:
        packed = packed << 256 | number
    return keccak(prefix + keccak(words + packed.to_bytes(32 * len(numbers), "big")))


def receipts_tree(digests: Iterable[bytes]) -> MerkleTree:
    """The tree over 32-byte receipt digests in batch order; its root is `receipts_root`."""
    return MerkleTree(digests)


def receipt_to_json(domain: Domain, signed: SignedReceipt) -> dict[str, Any]:
    """The receipt object of SPEC.md §7."""
    receipt = signed.receipt
    return {
        "node": receipt.node,
        "consumer": receipt.consumer,
        "version_id": "0x" + receipt.version_id.hex(),
        "input_hash": "0x" + receipt.input_hash.hex(),
        "output_hash": "0x" + receipt.output_hash.hex(),
        "price": str(receipt.price),
        "sequence": receipt.sequence,
        "executed_at": receipt.executed_at,
        "signature": "0x" + signed.signature.hex(),
        "digest": "0x" + receipt_digest(domain, receipt).hex(),
    }


def receipt_from_json(domain: Domain, data: Any) -> SignedReceipt:
    """Parse and check a receipt object; of the signature only the length (see `signing.recover`).

    Raises FieldError, code `receipt_invalid`: a field missing or malformed, a number out of range, a `digest`
    that is not this receipt's under `domain`.
    """

    def field(name: str) -> Any:
        return get_field(data, name, code=_CODE)

    receipt = Receipt(
        node=parse_address(field("node"), "node", code=_CODE),
        consumer=parse_address(field("consumer"), "consumer", code=_CODE),
        version_id=parse_hash(field("version_id"), "version_id", code=_CODE),
        input_hash=parse_hash(field("input_hash"), "input_hash", code=_CODE),
        output_hash=parse_hash(field("output_hash"), "output_hash", code=_CODE),
        price=parse_decimal(field("price"), "price", UINT128_MAX, code=_CODE),
        sequence=parse_integer(field("sequence"), "sequence", UINT64_MAX, code=_CODE),
        executed_at=parse_integer(field("executed_at"), "executed_at", UINT64_MAX, code=_CODE),
    )
    signature = parse_signature(field("signature"), code=_CODE)
    digest = receipt_digest(domain, receipt)
    if parse_hash(field("digest"), "digest", code=_CODE) != digest:
        raise FieldError(
            "digest",
            f"is not this receipt's on chain {domain.chain_id}, settlement {domain.settlement}",
            code=_CODE,
        )
    return SignedReceipt(receipt, signature)


def receipt_file_to_json(domain: Domain, signed: SignedReceipt) -> dict[str, Any]:
    """A receipt file: the receipt object with `chain_id` and `settlement`."""
    return receipt_to_json(domain, signed) | {"chain_id": domain.chain_id, "settlement": domain.settlement}


def receipt_file_from_json(data: Any) -> tuple[Domain, SignedReceipt]:
    """Parse a receipt file. Raises FieldError, code `receipt_invalid`, as `receipt_from_json` does."""
    chain_id = parse_integer(get_field(data, "chain_id", code=_CODE), "chain_id", UINT256_MAX, code=_CODE)
    settlement = parse_address(get_field(data, "settlement", code=_CODE), "settlement", code=_CODE)
    domain = Domain(chain_id, settlement)
    return domain, receipt_from_json(domain, data)
