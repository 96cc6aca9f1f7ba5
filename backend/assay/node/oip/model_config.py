"""A version's configuration as Triton's model configuration extension gives it.

Source: Triton's `model_config.proto`. `max_batch_size` is 0: shapes are whole, with their first dimension;
what runs together is this node's affair, and told in the parameter `batching`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from assay.types import TensorSpec

if TYPE_CHECKING:
    from assay.node.models.catalog import Served

PLATFORM: Final = "onnxruntime_onnx"
BACKEND: Final = "onnxruntime"
BATCHING: Final = "batching"


def model_config(served: Served, name: str, versions: Iterable[int]) -> dict[str, Any]:
    """`ModelConfig`; `versions` are the numbers that the node serves of the model."""
    batching = "" if served.engine is None else str(served.engine.statistics.batching)
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "version_policy": {"specific": {"versions": sorted(versions)}},
        "max_batch_size": 0,
        "input": [_tensor(spec) for spec in served.inputs],
        "output": [_tensor(spec) for spec in served.outputs],
        "parameters": {BATCHING: {"string_value": batching or f"not in memory: {served.problem}"}},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    kind = "STRING" if spec.dtype == "BYTES" else spec.dtype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape)}
