"""`Assay-Voucher`."""

import orjson
import pytest
from assay.node.errors import InputError
from assay.node.payments.voucher_header import FIELDS, voucher_parameters
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.text(max_size=20) | st.integers(0, (1 << 63) - 1) | st.none() | st.booleans()


def test_voucher_parameters__no_header__none() -> None:
    assert voucher_parameters(None) == {}


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_voucher_parameters__any_fields__as_parameters_with_integers_as_text(
    fields: dict[str, object],
) -> None:
    found = voucher_parameters(orjson.dumps(fields))
    assert set(found) == {f"voucher_{name}" for name in fields}
    for name, value in fields.items():
        assert found[f"voucher_{name}"] == (str(value) if type(value) is int else value)


@given(st.binary(max_size=40))
def test_voucher_parameters__any_bytes__parameters_or_a_refusal(raw: bytes) -> None:
    try:
        assert isinstance(voucher_parameters(raw), dict)
    except InputError as error:
        assert error.code == "input_voucher"


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"voucher_amount": "1"}', '{"amount": 1, "price": 2}'])
def test_voucher_parameters__not_the_object__refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        voucher_parameters(text)
    assert caught.value.code == "input_voucher"
