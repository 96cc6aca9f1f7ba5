"""The gRPC messages: on the wire the standard's, in the process apart from everybody else's stubs."""

import subprocess
import sys
from typing import Any

import pytest
from assay.node.grpc.messages import FIELDS, build_file, load_messages
from google.protobuf import descriptor_pb2


def fields(message: Any, path: str = "") -> dict[str, set[tuple[Any, ...]]]:
    """Each message's fields with number, label, type, oneof; nested messages under their dotted names."""
    name = f"{path}{message.name}"
    found = {
        name: {
            (
                *(field.name, field.number, field.label, field.type, field.type_name),
                field.HasField("oneof_index"),
            )
            for field in message.field
        }
    }
    for nested in message.nested_type:
        found |= fields(nested, f"{name}.")
    return found


def described(*files: Any) -> dict[str, set[tuple[Any, ...]]]:
    found: dict[str, set[tuple[Any, ...]]] = {}
    for file in files:
        for message in file.message_type:
            found |= fields(message)
    return found


def triton_files() -> list[Any]:
    from tritonclient.grpc import model_config_pb2, service_pb2

    files = []
    for module in (service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return files


def test_build_file__beside_tritons__every_field_is_the_same() -> None:
    ours, theirs = described(build_file()), described(*triton_files())
    assert set(FIELDS) <= set(ours)
    for name, found in ours.items():
        assert found <= theirs[name], f"{name} differs: {found - theirs[name]}"


def test_build_file__beside_tritons__inference_and_metadata_lack_nothing() -> None:
    """What this node leaves out is known: new fields of the standard's core messages shall be seen."""
    ours, theirs = described(build_file()), described(*triton_files())
    left_out = {
        name: {field[0] for field in theirs[name] - found}
        for name, found in ours.items()
        if theirs[name] - found
    }
    assert set(left_out) == {
        "ModelConfig",
        "ModelInput",
        "ModelOutput",
        "ModelVersionPolicy",
        "ModelStatistics",
    }
    assert left_out["ModelStatistics"] == {"memory_usage", "response_stats"}


def test_build_file__data_types__have_tritons_numbers() -> None:
    theirs = {
        value.name: value.number for file in triton_files() for e in file.enum_type for value in e.value
    }
    ours = {value.name: value.number for value in build_file().enum_type[0].value}
    assert ours == theirs


def test_load_messages__bytes_of_tritons__are_read_back() -> None:
    from tritonclient.grpc import service_pb2

    theirs = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"\x01"])
    theirs.parameters["voucher_amount"].int64_param = 7
    tensor = theirs.inputs.add(name="x", datatype="BOOL", shape=[1])
    tensor.parameters["p"].double_param = 0.5
    ours = load_messages().ModelInferRequest.FromString(theirs.SerializeToString(deterministic=True))
    assert ours.inputs[0].parameters["p"].double_param == 0.5
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


OURS = "from assay.node.grpc.messages import load_messages; load_messages()"
TRITON = "import tritonclient.grpc, tritonclient.grpc.aio"


@pytest.mark.parametrize("order", [(OURS, TRITON), (TRITON, OURS), (OURS, TRITON, OURS)])
def test_load_messages__with_tritons_stubs_in_any_order__both_import(order: tuple[str, ...]) -> None:
    check = (
        "from tritonclient.grpc import service_pb2\n"
        "m = load_messages().ModelReadyRequest(name='a')\n"
        "assert service_pb2.ModelReadyRequest.FromString(m.SerializeToString()).name == 'a'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", "\n".join([*order, check])], check=True, timeout=60)


def test_messages__import__registers_nothing() -> None:
    code = (
        "from google.protobuf import descriptor_pool\n"
        f"{OURS}\n"
        "try:\n    descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
        "except KeyError:\n    raise SystemExit(0)\nraise SystemExit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
