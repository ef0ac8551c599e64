"""Tiny models of every kind, and a server of them, for the tests of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnx
import uvicorn
import uvloop

from models.bert import SIZES, BertConfig, build_bert
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.executable import Executable
from poprt.serve.app import State, create_app
from poprt.serve.metering import Metrics
from poprt.serve.options import ServeOptions
from poprt.text import PackOptions, TextModel, pack
from tests.text_folders import bert_folder, embedding_folder, write_json

ROWS, COLUMNS, MOST = 3, 32, 10
SOON = 30


@cache
def text_model(kind: str) -> Path:
    """The executable of a text model: "embed", "classify", "tag" or "ask"."""
    folder = Path(mkdtemp(prefix="poprt-v2-")) / kind
    if kind == "embed":
        embedding_folder(folder, "mean", normalise=True)
        write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "how my "}})
    elif kind == "classify":
        bert_folder(folder, "sequence", "BertForSequenceClassification")
    elif kind == "tag":
        bert_folder(folder, "token", "BertForTokenClassification")
    else:
        bert_folder(folder, "qa", "BertForQuestionAnswering")
    path = folder / "model.popef"
    pack(folder, path, PackOptions(progress=False))
    return path


@cache
def original() -> onnx.ModelProto:
    """A model that gives a vector a token."""
    return build_bert(BertConfig(**SIZES["tiny"], head="hidden"))


@cache
def arrays_model(*, packed: bool, precision: str = "fp32") -> Executable:
    """An executable of :func:`original`, without a tokenizer."""
    model = onnx.ModelProto.FromString(original().SerializeToString())
    shapes = {value.name: [ROWS, COLUMNS] for value in model.graph.input}
    pack_args = {"max_valid_num": MOST, "segment_max_size": COLUMNS} if packed else None
    converter = Converter(input_shape=shapes, precision=precision, pack_args=pack_args, disable_progress_bar=True)
    return Compiler.compile(converter.convert(model))


def names_of_arrays() -> list[str]:
    return [value.name for value in original().graph.input]


def padded(lengths: list[int], width: int, dtype: Any = np.int64) -> dict[str, np.ndarray]:
    """Inputs [n, width] of random samples, each with zeros behind its tokens."""
    rng = np.random.default_rng(len(lengths))
    mask = np.zeros((len(lengths), width), dtype)
    for row, length in zip(mask, lengths, strict=True):
        row[:length] = 1
    ids = rng.integers(5, 90, mask.shape).astype(dtype) * mask
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    return {name: values[name] for name in names_of_arrays()}


@dataclass
class Served:
    """A running server: its addresses, its state, and what tells it to end."""

    http: str
    grpc: str
    state: State
    stop: Callable[[], None]


@contextlib.contextmanager
def server(
    models: Mapping[str, Any],
    options: ServeOptions | None = None,
    *,
    grpc: bool = False,
    metrics: Metrics | None = None,
    close: bool = True,
) -> Iterator[Served]:
    """Serve models on free ports, in a thread of this process; at the end their runners are closed."""
    options = replace(options or ServeOptions(), port=0, grpc_port=0 if grpc else None)
    app = create_app(models, options, metrics)
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="on", timeout_graceful_shutdown=5)
    running = uvicorn.Server(config)
    ready = threading.Event()

    def stop() -> None:
        running.should_exit = True

    served = Served("", "", app.state.poprt, stop)

    async def main() -> None:
        grpc_server = None
        if grpc:
            from poprt.serve.kserve.grpc_server import start

            grpc_server = await start(served.state)
            served.grpc = f"127.0.0.1:{grpc_server.port}"
        task = asyncio.create_task(running.serve())
        while not running.started and not task.done():
            await asyncio.sleep(0.01)
        if running.started:
            served.http = f"127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
        ready.set()
        while not running.should_exit and not task.done():
            await asyncio.sleep(0.01)
        if grpc_server is not None:  # first: when the application ends it closes the models
            await grpc_server.stop(5)
        await task

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(SOON)
    assert served.http
    try:
        yield served
    finally:
        stop()
        thread.join(SOON)
        for model in served.state.models.values() if close else ():
            model.runner.close(cancel=True)


@cache
def encoder() -> TextModel:
    """What the server's embeddings are compared with."""
    return TextModel(text_model("embed"))
