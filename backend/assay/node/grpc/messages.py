"""The messages of `inference.GRPCInferenceService`, in a descriptor pool of their own.

Generated stubs register themselves in protobuf's one default pool: tritonclient's, KServe's and MLServer's,
each another file with messages of the same names, so that whoever comes second cannot be imported. These here
are built when they are first asked for, in a pool that nobody else sees; only their bytes meet the others'.

Source: `grpc_predict_v2.proto` of the Open Inference Protocol, and Triton's `grpc_service.proto` and
`model_config.proto` for what its extensions add. Fields that this node neither reads nor writes are left out;
protobuf skips what it does not know.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "inference"
FILE: Final = "assay_inference.proto"

Message = Any
"""An instance of one of the classes that `load_messages` makes."""

_SCALARS: Final = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
}
_NAMED: Final = "name string 1; version string 2"
_PARAMETERS: Final = "parameters map:InferParameter 4"
_METADATA: Final = "name string 1; datatype string 2; shape *int64 3"
_TENSOR: Final = f"{_METADATA}; {_PARAMETERS}; contents InferTensorContents 5"
_REPOSITORY: Final = (
    "repository_name string 1; model_name string 2; parameters map:ModelRepositoryParameter 3"
)
_NO_FIELDS: Final = (
    "ServerLiveRequest",
    "ServerReadyRequest",
    "ServerMetadataRequest",
    "RepositoryModelLoadResponse",
    "RepositoryModelUnloadResponse",
)

# A message's fields: `name type number`, `*` before the type of a repeated one, `map:` before the type of a
# string-keyed map's values, `|` before that of a member of the message's one oneof.
FIELDS: Final[dict[str, str]] = {
    **dict.fromkeys(_NO_FIELDS, ""),
    "ServerLiveResponse": "live bool 1",
    "ServerReadyResponse": "ready bool 1",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "ready bool 1",
    "ServerMetadataResponse": f"{_NAMED}; extensions *string 3",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": (
        "name string 1; versions *string 2; platform string 3; "
        "inputs *ModelMetadataResponse.TensorMetadata 4; outputs *ModelMetadataResponse.TensorMetadata 5"
    ),
    "ModelMetadataResponse.TensorMetadata": _METADATA,
    "InferParameter": (
        "bool_param |bool 1; int64_param |int64 2; string_param |string 3; double_param |double 4; "
        "uint64_param |uint64 5"
    ),
    "InferTensorContents": (
        "bool_contents *bool 1; int_contents *int32 2; int64_contents *int64 3; uint_contents *uint32 4; "
        "uint64_contents *uint64 5; fp32_contents *float 6; fp64_contents *double 7; bytes_contents *bytes 8"
    ),
    "ModelInferRequest": (
        f"model_name string 1; model_version string 2; id string 3; {_PARAMETERS}; "
        "inputs *ModelInferRequest.InferInputTensor 5; "
        "outputs *ModelInferRequest.InferRequestedOutputTensor 6; raw_input_contents *bytes 7"
    ),
    "ModelInferRequest.InferInputTensor": _TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": "name string 1; parameters map:InferParameter 2",
    "ModelInferResponse": (
        f"model_name string 1; model_version string 2; id string 3; {_PARAMETERS}; "
        "outputs *ModelInferResponse.InferOutputTensor 5; raw_output_contents *bytes 6"
    ),
    "ModelInferResponse.InferOutputTensor": _TENSOR,
    "ModelStreamInferResponse": "error_message string 1; infer_response ModelInferResponse 2",
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": "config ModelConfig 1",
    "ModelConfig": (
        "name string 1; platform string 2; backend string 17; version_policy ModelVersionPolicy 3; "
        "max_batch_size int32 4; input *ModelInput 5; output *ModelOutput 6; "
        "parameters map:ModelParameter 14"
    ),
    "ModelParameter": "string_value string 1",
    "ModelVersionPolicy": "specific |ModelVersionPolicy.Specific 3",
    "ModelVersionPolicy.Specific": "versions *int64 1",
    "ModelInput": "name string 1; data_type enum:DataType 2; dims *int64 4",
    "ModelOutput": "name string 1; data_type enum:DataType 2; dims *int64 3",
    "ModelStatisticsRequest": _NAMED,
    "ModelStatisticsResponse": "model_stats *ModelStatistics 1",
    "StatisticDuration": "count uint64 1; ns uint64 2",
    "InferStatistics": (
        "success StatisticDuration 1; fail StatisticDuration 2; queue StatisticDuration 3; "
        "compute_input StatisticDuration 4; compute_infer StatisticDuration 5; "
        "compute_output StatisticDuration 6; cache_hit StatisticDuration 7; cache_miss StatisticDuration 8"
    ),
    "InferBatchStatistics": (
        "batch_size uint64 1; compute_input StatisticDuration 2; compute_infer StatisticDuration 3; "
        "compute_output StatisticDuration 4"
    ),
    "ModelStatistics": (
        f"{_NAMED}; last_inference uint64 3; inference_count uint64 4; execution_count uint64 5; "
        "inference_stats InferStatistics 6; batch_stats *InferBatchStatistics 7"
    ),
    "ModelRepositoryParameter": (
        "bool_param |bool 1; int64_param |int64 2; string_param |string 3; bytes_param |bytes 4"
    ),
    "RepositoryIndexRequest": "repository_name string 1; ready bool 2",
    "RepositoryIndexResponse": "models *RepositoryIndexResponse.ModelIndex 1",
    "RepositoryIndexResponse.ModelIndex": f"{_NAMED}; state string 3; reason string 4",
    "RepositoryModelLoadRequest": _REPOSITORY,
    "RepositoryModelUnloadRequest": _REPOSITORY,
}
DATA_TYPES: Final = (
    *("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "STRING", "BF16"),
)
"""Triton's `DataType`, each `TYPE_…`, by number."""


@functools.cache
def load_messages() -> SimpleNamespace:
    """The message classes by name; nested ones are attributes of theirs."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(build_file())
    names = [name for name in FIELDS if "." not in name]
    return SimpleNamespace(
        **{
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
            for name in names
        }
    )


def build_file() -> Any:
    """The `FileDescriptorProto` of all messages."""
    file = descriptor_pb2.FileDescriptorProto(name=FILE, package=PACKAGE, syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(DATA_TYPES):
        kinds.value.add(name=f"TYPE_{name}", number=number)
    made: dict[str, Any] = {}
    for path, fields in FIELDS.items():  # a message stands before those that are nested in it
        parent, _, name = path.rpartition(".")
        message = made[parent].nested_type.add(name=name) if parent else file.message_type.add(name=name)
        made[path] = message
        for text in filter(None, fields.split("; ")):
            _add_field(message, path, *text.split(" "))
    return file


def _add_field(message: Any, path: str, name: str, kind: str, number: str) -> None:
    field = message.field.add(name=name, number=int(number))
    field.label = field.LABEL_OPTIONAL
    if kind.startswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice" if "param" in name else "policy_choice")
        field.oneof_index, kind = 0, kind[1:]
    if kind.startswith("*"):
        field.label, kind = field.LABEL_REPEATED, kind[1:]
    if kind.startswith("map:"):
        kind = _add_entry(message, path, kind[4:])
        field.label = field.LABEL_REPEATED
    if kind.startswith("enum:"):
        field.type, field.type_name = field.TYPE_ENUM, f".{PACKAGE}.{kind[5:]}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


def _add_entry(message: Any, path: str, value: str) -> str:
    """The message that protobuf keeps a map's `parameters` in."""
    entry = message.nested_type.add(name="ParametersEntry")
    entry.options.map_entry = True
    _add_field(entry, path, "key", "string", "1")
    _add_field(entry, path, "value", value, "2")
    return f"{path}.ParametersEntry"
