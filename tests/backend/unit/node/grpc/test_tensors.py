"""gRPC inference messages to checked arrays and back."""

from typing import Any

import numpy as np
import pytest
from assay.commitments.tensors import OIP_TO_NUMPY, array_bytes
from assay.node.errors import InputError, TooLarge
from assay.node.grpc.messages import load_messages
from assay.node.grpc.tensors import CONTENTS, build_response, is_typed, read_parameters, read_request
from assay.node.oip import protocol as oip
from assay.types import TensorSpec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Y = (TensorSpec("y", "FP32", (-1,)),)
VALUES = {
    "BYTES": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    **dict.fromkeys(("FP16", "FP32", "FP64"), None),
}


def request(datatype: str, shape: list[int], **fields: Any) -> Any:
    message = load_messages().ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    for name, values in fields.items():
        if name == "raw":
            message.raw_input_contents.extend(values)
        else:
            getattr(message.inputs[0].contents, name).extend(values)
    return message


def read(message: Any, datatype: str = "FP32", shape: tuple[int, ...] = (-1,)) -> oip.InferRequest:
    return read_request(message, {}, [TensorSpec("x", datatype, shape)], Y, max_elements=1000)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, Any]:
    datatype = draw(st.sampled_from(sorted(OIP_TO_NUMPY)))
    dtype = OIP_TO_NUMPY[datatype]
    shape = draw(hnp.array_shapes(max_dims=3, max_side=4))
    if datatype == "BYTES":
        return datatype, draw(hnp.arrays(object, shape, elements=VALUES["BYTES"]))
    elements = (
        {"allow_nan": False, "allow_infinity": False, "allow_subnormal": False} if dtype.kind == "f" else {}
    )
    return datatype, draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, **elements)))


@given(arrays())
def test_read_request__raw_contents__are_the_array(drawn: tuple[str, Any]) -> None:
    datatype, array = drawn
    message = request(datatype, list(array.shape), raw=[bytes(array_bytes(array))])
    found = read(message, datatype, (-1,) * array.ndim).inputs[0]
    assert bytes(array_bytes(found)) == bytes(array_bytes(array)) and found.shape == array.shape


@given(arrays())
def test_read_request__typed_contents__are_the_array(drawn: tuple[str, Any]) -> None:
    datatype, array = drawn
    if datatype not in CONTENTS:
        return
    flat = array.reshape(-1).tolist()
    values = [value.encode() for value in flat] if datatype == "BYTES" else flat
    message = request(datatype, list(array.shape), **{CONTENTS[datatype]: values})
    assert is_typed(message)
    found = read(message, datatype, (-1,) * array.ndim).inputs[0]
    assert bytes(array_bytes(found)) == bytes(array_bytes(array))


@given(arrays(), st.booleans())
def test_build_response__any_array__comes_back(drawn: tuple[str, Any], typed: bool) -> None:
    datatype, array = drawn
    spec = TensorSpec("y", datatype, (-1,) * array.ndim)
    asked = oip.InferRequest((), binary_default=True, id="7")
    wanted = oip.requested_outputs(asked, [spec], [array])
    message = build_response(asked, "m", "1", wanted, '{"a":1}', typed=typed)
    assert message.parameters["receipt"].string_param == '{"a":1}' and message.id == "7"
    (output,) = message.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, list(array.shape))
    if message.raw_output_contents:
        assert datatype == "FP16" or not typed
        raw = message.raw_output_contents[0]
    else:
        values = getattr(output.contents, CONTENTS[datatype])
        raw = array_bytes(
            np.array([v.decode() for v in values] if datatype == "BYTES" else values, OIP_TO_NUMPY[datatype])
        )
    assert bytes(raw) == bytes(array_bytes(array))


def code_of(message: Any, datatype: str = "FP32", shape: tuple[int, ...] = (-1,)) -> str:
    with pytest.raises(InputError) as caught:
        read(message, datatype, shape)
    return caught.value.code


def test_read_request__more_raw_tensors_than_inputs__refused() -> None:
    assert code_of(request("FP32", [1], raw=[b"\0" * 4, b""])) == "input_size"


def test_read_request__raw_and_typed__refused() -> None:
    assert code_of(request("FP32", [1], raw=[b"\0" * 4], fp32_contents=[1.0])) == "input_data"


def test_read_request__contents_of_another_type__refused() -> None:
    assert code_of(request("FP32", [1], int_contents=[1])) == "input_data"


def test_read_request__int8_out_of_range__refused() -> None:
    assert code_of(request("INT8", [1], int_contents=[128]), "INT8") == "input_data"


def test_read_request__typed_half__refused() -> None:
    assert code_of(request("FP16", [1], fp32_contents=[1.0]), "FP16") == "input_data"


@pytest.mark.parametrize("datatype", ["FP64", "NONE", ""])
def test_read_request__other_datatype__refused(datatype: str) -> None:
    assert code_of(request(datatype, [1])) == "input_dtype"


def test_read_request__too_few_typed_values__refused() -> None:
    assert code_of(request("FP32", [2], fp32_contents=[1.0])) == "input_size"


@pytest.mark.parametrize(
    ("datatype", "field", "value"), [("FP32", "fp32_contents", 0.0), ("BYTES", "bytes_contents", b"")]
)
def test_read_request__more_typed_values_than_are_taken__are_not_unpacked(
    datatype: str, field: str, value: Any
) -> None:
    with pytest.raises(TooLarge):
        read(request(datatype, [1], **{field: [value] * 1001}), datatype)


def test_read_request__endless_shape__refused() -> None:
    assert code_of(request("FP32", [1] * 100_000, raw=[b"\0" * 4])) == "input_shape"


def test_read_request__bytes_that_are_no_text__refused() -> None:
    assert code_of(request("BYTES", [1], bytes_contents=[b"\xff"]), "BYTES") == "input_data"


@pytest.mark.parametrize(("datatype", "raw"), [("FP32", []), ("FP16", []), ("FP32", [b"\0" * 4])])
def test_read_request__shared_memory__refused(datatype: str, raw: list[bytes]) -> None:
    """By name, also where the datatype has no typed contents, and where other inputs bring their bytes."""
    message = request(datatype, [1], raw=raw)
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"
    message.inputs.add(name="z", datatype="FP32", shape=[1])
    assert code_of(message) == "input_unsupported"


def test_read_request__sequence__refused() -> None:
    message = request("FP32", [1], raw=[b"\0" * 4])
    message.parameters["sequence_id"].int64_param = 3
    assert code_of(message) == "input_unsupported"


def test_read_parameters__voucher_numbers__as_decimal_strings() -> None:
    message = load_messages().ModelInferRequest()
    message.parameters["voucher_amount"].int64_param = 5
    message.parameters["voucher_count"].uint64_param = (1 << 64) - 1
    message.parameters["public"].bool_param = True
    message.parameters["priority"].uint64_param = 2
    assert read_parameters(message.parameters) == {
        "voucher_amount": "5",
        "voucher_count": str((1 << 64) - 1),
        "public": True,
        "priority": 2,
    }


def test_read_request__voucher_in_metadata__goes_before_parameters() -> None:
    message = request("FP32", [1], raw=[b"\0" * 4])
    message.parameters["voucher_amount"].string_param = "1"
    found = read_request(
        message, {"voucher_amount": "9"}, [TensorSpec("x", "FP32", (-1,))], Y, max_elements=1000
    )
    assert found.parameters["voucher_amount"] == "9"
