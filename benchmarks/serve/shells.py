"""Two plain servers of embeddings in FastAPI: ``python -m benchmarks.serve.shells WAY FOLDER PORT``.

``sentence-transformers`` is the simplest honest one: an endpoint that calls ``model.encode``, in FastAPI's threads.
``plain-queue`` puts requests together in padded batches of the ONNX model.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import Body, FastAPI
from tokenizers import Tokenizer

from benchmarks.contenders import Array, OnnxRuntime, Sample
from benchmarks.plain_queue import PlainQueue
from benchmarks.serve.starting import HOST

PATH = "/v1/embeddings"
ROWS = 32  # texts of a padded batch, at most


def sentence_transformers_app(folder: Path) -> FastAPI:
    """An endpoint around ``SentenceTransformer.encode``."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    app = FastAPI()

    @app.post(PATH)
    def embeddings(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008 - FastAPI's way
        return _answer(model.encode(body["input"], show_progress_bar=False))

    return app


def plain_queue_app(folder: Path) -> FastAPI:
    """A queue in front of the padded model; each batch is padded to its own longest text."""
    model = PooledQueue(folder)
    app = FastAPI()

    @app.post(PATH)
    async def embeddings(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008 - FastAPI's way
        return _answer(await model.embed(body["input"]))

    return app


class PooledQueue:
    """A plain batching queue of an encoder, with the mean of the token vectors, of length 1, as embedding."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_longest(folder))
        self._queue = PlainQueue(OnnxRuntime(str(folder / "onnx" / "model.onnx")), ROWS, 0)

    async def embed(self, text: str) -> Array:
        """The embedding of a text: float32 [d]."""
        result = await asyncio.wrap_future(self._queue.submit(self._sample(text)))
        vector = next(iter(result.values())).mean(axis=0)
        embedding: Array = vector / np.linalg.norm(vector)
        return embedding

    def _sample(self, text: str) -> Sample:
        encoding = self._tokenizer.encode(text)
        return {
            "input_ids": np.array(encoding.ids, np.int64),
            "attention_mask": np.ones(len(encoding.ids), np.int64),
            "token_type_ids": np.array(encoding.type_ids, np.int64),
        }


def _longest(folder: Path) -> int:
    limits, config = folder / "sentence_bert_config.json", folder / "config.json"
    source, name = (limits, "max_seq_length") if limits.exists() else (config, "max_position_embeddings")
    longest: int = json.loads(source.read_text(encoding="utf-8"))[name]
    return longest


def _answer(vector: Array) -> dict[str, Any]:
    return {"data": [{"embedding": vector.tolist(), "index": 0, "object": "embedding"}], "object": "list"}


_APPS = {"sentence-transformers": sentence_transformers_app, "plain-queue": plain_queue_app}


def main() -> None:
    """Serve until a signal ends it."""
    way, folder, port = sys.argv[1:]
    uvicorn.run(_APPS[way](Path(folder)), host=HOST, port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
