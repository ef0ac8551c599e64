"""The messages of gRPC: those of Triton's client, and of the definition that is shipped."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

from poprt.serve.kserve.messages import METHODS


def test_messages_have_the_names_and_numbers_of_tritons_client() -> None:
    pb2 = pytest.importorskip("tritonclient.grpc.service_pb2", reason="pip install 'tritonclient[grpc]'")
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    messages = {**pb2.DESCRIPTOR.message_types_by_name, **config.DESCRIPTOR.message_types_by_name}
    service = pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name, method in METHODS.items():
        theirs = service.methods_by_name[name]
        assert (method.input_type.name, method.output_type.name) == (theirs.input_type.name, theirs.output_type.name)
        for ours in (method.input_type, method.output_type):
            assert_same_fields(ours, messages[ours.name])


def numbers_of(descriptor: Any) -> dict[str, tuple[int, int, int]]:
    """Number, type and label of each field."""
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    return {field.name: (field.number, field.type, field.label) for field in proto.field}


def assert_same_fields(ours: Any, theirs: Any) -> None:
    assert numbers_of(ours).items() <= numbers_of(theirs).items()
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        if field.message_type is not None:
            assert_same_fields(field.message_type, other.message_type)
        if field.enum_type is not None:
            values = {value.name: value.number for value in other.enum_type.values}
            assert {value.name: value.number for value in field.enum_type.values}.items() <= values.items()


def test_the_descriptors_are_those_of_the_definition(tmp_path: Path) -> None:
    """The remedy is the command in ``open_inference.proto``."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="pip install grpcio-tools")
    folder, compiled = Path(str(files("poprt.serve.kserve"))), tmp_path / "set"
    assert not protoc.main(["", f"-I{folder}", f"--descriptor_set_out={compiled}", "open_inference.proto"])
    shipped = (folder / "open_inference.binpb").read_bytes()
    assert FileDescriptorSet.FromString(compiled.read_bytes()) == FileDescriptorSet.FromString(shipped)
