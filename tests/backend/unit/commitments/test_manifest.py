import hashlib
import json
from typing import Any

import pytest
from assay.commitments.manifest import Manifest
from assay.commitments.parsing import FieldError
from assay.commitments.tensors import OIP_TO_ONNX
from assay.types import Hash32, TensorSpec
from hypothesis import given
from hypothesis import strategies as st

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
specs = st.builds(
    TensorSpec,
    texts,
    st.sampled_from(sorted(OIP_TO_ONNX)),
    st.lists(st.integers(-1, 1 << 31), max_size=4).map(tuple),
)
spec_tuples = st.lists(specs, min_size=1, max_size=3).map(tuple)
hashes = st.binary(min_size=32, max_size=32).map(Hash32)
manifests = st.builds(Manifest, spec_tuples, spec_tuples, texts, hashes, hashes)

SPEC = TensorSpec("x", "FP32", (-1, 4))
MANIFEST = Manifest((SPEC,), (SPEC,), "Apache-2.0", Hash32(b"\1" * 32), Hash32(b"\2" * 32))


@given(manifests)
def test_from_bytes__round_trip__is_equal(manifest: Manifest) -> None:
    raw = manifest.to_bytes()
    assert Manifest.from_bytes(raw) == manifest
    assert manifest.digest == hashlib.sha256(raw).digest()


def test_to_bytes__plain_manifest__is_the_canonical_form() -> None:
    tensor = '[{"dtype":"FP32","name":"x","shape":[-1,4]}]'
    expected = (
        f'{{"inputs":{tensor},"licence":"Apache-2.0","model_card":"{"01" * 32}",'
        f'"outputs":{tensor},"self_test":"{"02" * 32}"}}'
    )
    assert MANIFEST.to_bytes() == expected.encode()


def altered(**changes: Any) -> bytes:
    return json.dumps(
        json.loads(MANIFEST.to_bytes()) | changes, sort_keys=True, separators=(",", ":")
    ).encode()


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "manifest"),
        (b"[" * 100_000, "manifest"),
        (b"\xff", "manifest"),
        (b"[]", "inputs"),
        (MANIFEST.to_bytes() + b" ", "manifest"),
        (altered(inputs=[]), "inputs"),
        (altered(outputs={}), "outputs"),
        (altered(inputs=[{"dtype": "FP32", "shape": []}]), "name"),
        (altered(inputs=[{"name": "x", "dtype": "BF16", "shape": []}]), "inputs[0].dtype"),
        (altered(inputs=[{"name": "x", "dtype": ["FP32"], "shape": []}]), "inputs[0].dtype"),
        (altered(inputs=[{"name": "x", "dtype": "FP32", "shape": [-2]}]), "inputs[0].shape"),
        (altered(inputs=[{"name": "x", "dtype": "FP32", "shape": [True]}]), "inputs[0].shape"),
        (altered(inputs=[{"name": "x", "dtype": "FP32", "shape": 3}]), "inputs[0].shape"),
        (altered(licence=None), "licence"),
        (altered(model_card="01" * 31), "model_card"),
        (altered(self_test="AB" * 32), "self_test"),
        (altered(extra=1), "extra"),
    ],
)
def test_from_bytes__malformed__names_the_field(raw: bytes, field: str) -> None:
    with pytest.raises(FieldError) as caught:
        Manifest.from_bytes(raw)
    assert (caught.value.field, caught.value.code) == (field, "manifest_invalid")
