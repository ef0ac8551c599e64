"""The members of an executable's file: what they are called, and whether they are all there and whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from poprt.container_reader import Container
from poprt.errors import DamagedExecutableError
from poprt.fused_names import prefix_of
from poprt.graph_check import check_graph
from poprt.manifest import ONNXRUNTIME, Manifest

GRAPH = "model.onnx"
OTHER_GRAPH = "model.{engine}.onnx"
WEIGHTS = "weights.bin"
#: What a text model says of itself, and its tokenizer. Both are there, or neither.
TEXT, TOKENIZER = "text.json", "tokenizer.json"
#: The most bytes of each that are read. Large vocabularies have tokenizers of some 35 MB.
TEXT_LIMITS = {TEXT: 1 << 20, TOKENIZER: 64 << 20}


def other_graph(engine: str) -> str:
    """The member with the graph for an engine that is not the main graph's."""
    return OTHER_GRAPH.format(engine=engine)


def graphs_of(manifest: Manifest) -> set[str]:
    """The members with graphs."""
    return {GRAPH, *map(other_graph, manifest.other_graphs)}


def check_names(names: Sequence[str], manifest: Manifest) -> None:
    """Graphs and weights; a text model has its two members as well."""
    graphs = graphs_of(manifest)
    if set(names) not in ({*graphs, WEIGHTS}, {*graphs, WEIGHTS, *TEXT_LIMITS}):
        raise DamagedExecutableError(
            f"its members are {sorted(names)}, not {', '.join(sorted(graphs))} and {WEIGHTS}, with {TEXT} and "
            f"{TOKENIZER} or without"
        )


def check_folders(names: Sequence[str], models: Sequence[Manifest]) -> None:
    """Graphs and weights of each of the models."""
    expected = {prefix_of(index) + name for index, said in enumerate(models) for name in (*graphs_of(said), WEIGHTS)}
    if set(names) != expected:
        raise DamagedExecutableError(f"its members are {sorted(names)}, not {sorted(expected)}")


def check_graphs(manifest: Manifest, graph: bytes, others: Mapping[str, bytes]) -> None:
    """Check each graph against the weights that it may read from beside it. OpenVINO takes them as inputs."""
    for engine, each in {manifest.engine: graph, **others}.items():
        check_graph(each, manifest.for_engine(engine).weights if engine == ONNXRUNTIME else ())


def read_text(container: Container, name: str) -> bytes:
    """A member of a text model; raise DamagedExecutableError where it is too large."""
    check_text_size(name, len(container.view(name)))
    return container.read(name)


def check_text_size(name: str, size: int) -> None:
    """Raise DamagedExecutableError for a member of a text model of so many bytes that it is not read."""
    if size > TEXT_LIMITS[name]:
        raise DamagedExecutableError(f"member {name!r} has {size} bytes, at most {TEXT_LIMITS[name]} are read")
