"""Whose fault an exception is: the model's, a user's pass's, or ours."""

from __future__ import annotations

import logging

import onnx
import pytest

from passes import PassManager, PassResult, get_pass
from passes.base import GraphPass
from passes.errors import RewriteError
from poprt.compiler import Compiler
from poprt.compiler.ragged import LowerPacking
from poprt.converter import Converter
from poprt.errors import CompileError
from tests.passes.rewrites import parse

VALID = "g (float[2] x) => (float[2] y) { y = Relu (x) }"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("g (float[2] x) => (float[2] y) { y = Cast (x) }", "Required attribute 'to' is missing"),
        ("g (float[2] x) => (float[2] y) { y = Cast <to = 99> (x) }", "Attribute to does not specify a valid type"),
        ("g (float[2] x) => (float[4] y) { a = Concat (x, x)  y = Cast (a) }", "Required attribute '(axis|to)'"),
        ("g (float[2] x) => (float[2] y) { y = Constant () }", "Constant"),
    ],
    ids=["cast", "type", "concat", "constant"],
)
def test_a_pass_that_fails_on_an_invalid_model_says_what_onnx_says(text: str, words: str) -> None:
    with pytest.raises(RewriteError, match=words):
        Converter(disable_progress_bar=True, input_shape={"x": [2]}).convert(parse(text))


def test_a_cycle_is_the_models_fault() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Add (x, b)  b = Relu (a)  y = Neg (b) }")
    with pytest.raises(RewriteError, match="has a cycle"):
        Converter(disable_progress_bar=True).convert(model)


def test_an_exception_on_a_valid_model_is_our_bug_and_keeps_its_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> PassResult:
        raise ZeroDivisionError("a bug")

    step = get_pass("eliminate_identity")
    assert isinstance(step, GraphPass)
    monkeypatch.setattr(step, "apply", fail)
    with pytest.raises(ZeroDivisionError), caplog.at_level(logging.ERROR, "poprt"):
        PassManager([step]).run(parse(VALID))
    assert "'eliminate_identity' failed" in caplog.text


def test_an_exception_of_a_users_pass_is_the_users(caplog: pytest.LogCaptureFixture) -> None:
    def mine(model: onnx.ModelProto) -> onnx.ModelProto:
        return model.no_such_field

    with pytest.raises(RewriteError, match=r"pass 'mine' failed: .*test_blame\.py, line \d+: AttributeError"):
        PassManager([mine]).run(parse(VALID))
    assert not caplog.records


@pytest.mark.parametrize(("text", "expected"), [(VALID, KeyError), (VALID.replace("Relu", "Cast"), CompileError)])
def test_the_compiler_blames_likewise(text: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(LowerPacking, "apply", fail)
    with pytest.raises(expected):
        Compiler.compile(parse(text))
