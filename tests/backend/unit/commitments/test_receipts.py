import dataclasses
import json
from typing import Any

import pytest
from assay.commitments import receipts
from assay.commitments.identifiers import checksum_address
from assay.commitments.merkle import merkle_root
from assay.commitments.parsing import FieldError
from assay.commitments.signing import SigningKey
from assay.types import Domain, Hash32, Receipt, SignedReceipt, Voucher
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

addresses = st.binary(min_size=20, max_size=20).map(checksum_address)
hashes = st.binary(min_size=32, max_size=32).map(Hash32)
uint64, uint128 = st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 128) - 1)
domains = st.builds(Domain, st.integers(0, (1 << 256) - 1), addresses)
all_receipts = st.builds(Receipt, addresses, addresses, hashes, hashes, hashes, uint128, uint64, uint64)
vouchers = st.builds(Voucher, addresses, addresses, hashes, uint128, uint64)
KEY = SigningKey(bytes(range(1, 33)))
DOMAIN = Domain(31337, KEY.address)
RECEIPT = Receipt(
    KEY.address, KEY.address, Hash32(b"\1" * 32), Hash32(b"\2" * 32), Hash32(b"\3" * 32), 5, 1, 1_750_000_000
)


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def eth_account_digest(domain: Domain, kind: str, value: Any, encoded_type: str) -> bytes:
    fields = [field.split(" ") for field in encoded_type[len(kind) + 1 : -1].split(",")]
    message = encode_typed_data(
        {
            "name": "Assay",
            "version": "1",
            "chainId": domain.chain_id,
            "verifyingContract": domain.settlement,
        },
        {kind: [{"name": name, "type": type_} for type_, name in fields]},
        {camel(name): item for name, item in dataclasses.asdict(value).items()},
    )
    return keccak(b"\x19" + message.version + message.header + message.body)


@given(domains, all_receipts)
def test_receipt_digest__any_receipt__equals_eth_account(domain: Domain, receipt: Receipt) -> None:
    expected = eth_account_digest(domain, "Receipt", receipt, receipts.RECEIPT_TYPE)
    assert receipts.receipt_digest(domain, receipt) == expected


@given(domains, vouchers)
def test_voucher_digest__any_voucher__equals_eth_account(domain: Domain, voucher: Voucher) -> None:
    expected = eth_account_digest(domain, "Voucher", voucher, receipts.VOUCHER_TYPE)
    assert receipts.voucher_digest(domain, voucher) == expected


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Receipt)])
def test_receipt_digest__a_field_changed__differs(field: str) -> None:
    other: dict[str, Any] = {"node": checksum_address(bytes(20)), "consumer": checksum_address(bytes(20))}
    value = getattr(RECEIPT, field)
    changed = other.get(field, value + 1 if isinstance(value, int) else Hash32(bytes(32)))
    assert receipts.receipt_digest(DOMAIN, dataclasses.replace(RECEIPT, **{field: changed})) != (
        receipts.receipt_digest(DOMAIN, RECEIPT)
    )


def test_receipt_digest__other_chain_or_contract__differs() -> None:
    elsewhere = [DOMAIN, Domain(1, DOMAIN.settlement), Domain(31337, checksum_address(bytes(20)))]
    assert len({receipts.receipt_digest(domain, RECEIPT) for domain in elsewhere}) == 3


@pytest.mark.parametrize(
    ("field", "value"), [("price", 1 << 128), ("price", -1), ("sequence", 1 << 64), ("executed_at", 1 << 64)]
)
def test_receipt_digest__number_outside_its_type__is_refused(field: str, value: int) -> None:
    with pytest.raises(FieldError) as caught:
        receipts.receipt_digest(DOMAIN, dataclasses.replace(RECEIPT, **{field: value}))
    assert caught.value.field == field


@pytest.mark.parametrize(("field", "value"), [("amount", 1 << 128), ("count", 1 << 64), ("count", -1)])
def test_voucher_digest__number_outside_its_type__is_refused(field: str, value: int) -> None:
    voucher = Voucher(KEY.address, KEY.address, Hash32(bytes(32)), 1, 1)
    with pytest.raises(FieldError) as caught:
        receipts.voucher_digest(DOMAIN, dataclasses.replace(voucher, **{field: value}))
    assert caught.value.field == field


def test_receipts_tree__digests__are_leaf_bytes_in_order() -> None:
    digests = [bytes((i,)) * 32 for i in range(5)]
    assert receipts.receipts_tree(digests).root == merkle_root(digests)


@given(domains, all_receipts, st.binary(min_size=65, max_size=65))
def test_receipt_from_json__round_trip__is_equal(domain: Domain, receipt: Receipt, signature: bytes) -> None:
    signed = SignedReceipt(receipt, signature)
    text = json.dumps(receipts.receipt_to_json(domain, signed))
    assert receipts.receipt_from_json(domain, json.loads(text)) == signed
    text = json.dumps(receipts.receipt_file_to_json(domain, signed))
    assert receipts.receipt_file_from_json(json.loads(text)) == (domain, signed)


def receipt_object() -> dict[str, Any]:
    digest = receipts.receipt_digest(DOMAIN, RECEIPT)
    return receipts.receipt_file_to_json(DOMAIN, SignedReceipt(RECEIPT, KEY.sign(digest)))


@pytest.mark.parametrize("field", list(receipt_object()))
def test_receipt_file_from_json__field_missing__names_it(field: str) -> None:
    data = receipt_object()
    del data[field]
    with pytest.raises(FieldError, match="is missing") as caught:
        receipts.receipt_file_from_json(data)
    assert (caught.value.field, caught.value.code) == (field, "receipt_invalid")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", "0x1A642f0E3c3aF545E7AcBD38b07251B3990914F1"),
        ("node", "0x12"),
        ("consumer", 5),
        ("version_id", "0x" + "00" * 31),
        ("input_hash", "00" * 32),
        ("output_hash", "0x" + "0g" * 32),
        ("output_hash", None),
        ("price", 5),
        ("price", "05"),
        ("price", "-5"),
        ("price", "٥"),
        ("price", "5.0"),
        ("price", str(1 << 128)),
        ("price", "9" * 5000),
        ("sequence", "1"),
        ("sequence", True),
        ("sequence", 1.0),
        ("sequence", 1 << 64),
        ("executed_at", -1),
        ("signature", "0x" + "00" * 64),
        ("signature", "0x" + "00" * 66),
        ("digest", "0x" + "00" * 32),
        ("chain_id", 1),
        ("chain_id", "31337"),
        ("settlement", "0x" + "00" * 20),
    ],
)
def test_receipt_file_from_json__field_wrong__names_it(field: str, value: object) -> None:
    with pytest.raises(FieldError) as caught:
        receipts.receipt_file_from_json(receipt_object() | {field: value})
    rebound = (field, value) in (("chain_id", 1), ("settlement", "0x" + "00" * 20))
    assert caught.value.field == ("digest" if rebound else field)
    assert (caught.value.code, caught.value.status) == ("receipt_invalid", 400)


@pytest.mark.parametrize("data", [None, [], "receipt", 7])
def test_receipt_from_json__no_object__is_refused(data: object) -> None:
    with pytest.raises(FieldError, match="expected an object"):
        receipts.receipt_from_json(DOMAIN, data)
