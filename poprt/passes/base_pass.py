"""The base classes of passes, under the names that scripts import."""

from __future__ import annotations

import onnx

from passes.base import Pass

__all__ = ["ImmutablePass", "Pass", "get_all_named_subclasses"]


class ImmutablePass(Pass):
    """A pass that looks at a model and leaves it as it is: override :meth:`run_transform`, or ``run``."""

    def run_transform(self, graph: onnx.GraphProto, is_main_graph: bool) -> onnx.GraphProto:
        """Look at one graph: the main one, or one inside a node. What is returned is dropped."""
        return graph

    def run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Look at every graph of the model, and return the model as it came."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        self.traverse_graph(copy.graph, self.run_transform)
        return model


def get_all_named_subclasses(cls: type) -> dict[str, type]:
    """The classes below ``cls`` that have a name, by that name. Built-in passes count once they are imported."""
    named: dict[str, type] = {}
    subclasses: list[type] = cls.__subclasses__()
    for subclass in subclasses:
        if name := getattr(subclass, "name", ""):
            named[name] = subclass
        named |= get_all_named_subclasses(subclass)
    return named
