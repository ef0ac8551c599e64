"""Pass names and options that do not fit: which one, and what would."""

from __future__ import annotations

import onnx
import pytest

from passes import GraphPass, PassManager, get_pass
from passes.base import PassResult
from passes.errors import RewriteError
from passes.registry import register
from tests.passes.rewrites import parse


def test_a_name_of_a_built_in_pass_is_not_given_twice() -> None:
    with pytest.raises(RewriteError, match=r"'constant_folding' is taken by passes.cleanup.constant_folding.*; choose"):

        @register("constant_folding")
        class Mine(GraphPass):
            def apply(self, graph: object) -> PassResult:
                return PassResult()


def test_options_that_a_pass_lacks_are_named() -> None:
    with pytest.raises(RewriteError, match=r"'constant_folding' does not take these options: .*'largest'"):
        get_pass("constant_folding", largest=3)


@pytest.mark.parametrize(
    ("name", "offered"), [("constant_foldin", "did you mean 'constant_folding'"), ("zzz", "--list_all_passes")]
)
def test_an_unknown_name_offers_the_nearest(name: str, offered: str) -> None:
    with pytest.raises(RewriteError, match=offered):
        get_pass(name)


def test_what_returns_no_model_is_told_what_to_return() -> None:
    def forgetful(model: onnx.ModelProto) -> None:
        model.doc_string = "seen"

    model = parse("g (float[n] x) => (float[n] y) { y = Relu (x) }")
    with pytest.raises(RewriteError, match=r"'forgetful'.*returned NoneType; a pass must return the ModelProto"):
        PassManager([forgetful]).run(model)
