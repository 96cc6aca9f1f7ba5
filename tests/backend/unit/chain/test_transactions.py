"""Transaction bytes against eth-account, an independent implementation."""

from __future__ import annotations

from assay.chain.transactions import Fees, Transaction, sign_transaction
from assay.commitments.identifiers import checksum_address
from assay.commitments.signing import SigningKey
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

fees = st.integers(0, 10**13)
secrets = st.binary(min_size=32, max_size=32).filter(lambda b: any(b) and b[0] < 0xFF)
transactions = st.builds(
    Transaction,
    chain_id=st.integers(1, 2**40),
    nonce=st.integers(0, 2**32),
    to=st.none() | st.binary(min_size=20, max_size=20).map(checksum_address),
    data=st.binary(max_size=200),
    value=st.integers(0, 2**96),
    gas=st.integers(21_000, 30_000_000),
    fees=st.builds(Fees, fees, st.none() | fees),
)


@settings(max_examples=60)
@given(transactions, secrets)
def test_sign_transaction__any__same_bytes_as_eth_account(transaction: Transaction, secret: bytes) -> None:
    fields: dict[str, object] = {
        "chainId": transaction.chain_id,
        "nonce": transaction.nonce,
        "to": transaction.to or b"",
        "data": transaction.data,
        "value": transaction.value,
        "gas": transaction.gas,
    }
    if transaction.fees.priority_fee is None:
        fields["gasPrice"] = transaction.fees.max_fee
    else:
        fields["maxFeePerGas"] = transaction.fees.max_fee
        fields["maxPriorityFeePerGas"] = transaction.fees.priority_fee
        fields["type"] = 2
    expected = Account.sign_transaction(fields, secret)
    raw, transaction_hash = sign_transaction(transaction, SigningKey(secret))
    assert raw == bytes(expected.raw_transaction)
    assert transaction_hash == bytes(expected.hash)


@given(st.builds(Fees, fees, fees), st.builds(Fees, fees, fees))
def test_bumped__any_market__at_least_ten_percent_more_of_both(old: Fees, market: Fees) -> None:
    new = old.bumped(market)
    assert old.priority_fee is not None and new.priority_fee is not None
    assert new.max_fee * 10 >= old.max_fee * 11 and new.max_fee > old.max_fee
    assert new.priority_fee * 10 >= old.priority_fee * 11 and new.priority_fee > old.priority_fee
    assert new.max_fee >= max(market.max_fee, new.priority_fee)


@given(fees, fees)
def test_bumped__legacy__at_least_ten_percent_more(old: int, market: int) -> None:
    new = Fees(old, None).bumped(Fees(market, None))
    assert new.priority_fee is None
    assert new.max_fee * 10 >= old * 11 and new.max_fee >= market
