"""The servers that are compared: how each is started, and how it is asked for an embedding."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serve.sources import Sources

MODEL = "minilm"
#: Least cosine to the vectors of sentence-transformers, by precision.
LEAST_COSINE = {"fp32": 0.99999, "int8": 0.95}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Contender:
    """A server.

    Attributes:
        name: in tables.
        command: to start it; ``{port}`` stands for the port.
        path: of its route that speaks as OpenAI's for embeddings does.
        precision: in which it computes.
        absent: what is not installed; "" where all is.
        environment: variables beside those of this process.
    """

    name: str
    command: tuple[str, ...]
    path: str = "/v1/embeddings"
    precision: str = "fp32"
    absent: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: _OFFLINE)

    def body(self, text: str) -> dict[str, Any]:
        """What is posted for a text."""
        return {"input": text, "model": MODEL}


def poprt_servers(sources: Sources) -> list[Contender]:
    """``poprt serve`` in each precision, float32 first."""
    return [
        Contender(f"poprt serve, {precision}", _poprt(path), precision=precision)
        for precision, path in sources.executables.items()
    ]


def _poprt(executable: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "poprt", "serve", f"{MODEL}={executable}", "--port", "{port}")


def other_servers(sources: Sources, infinity: Path) -> list[Contender]:
    """All others. Those that are not installed say so."""
    shell = (sys.executable, "-m", "benchmarks.serve.shells")
    place = (str(sources.folder.resolve()), "{port}")
    infinity_words = (
        *(str(infinity.absolute()), "v2", "--model-id", str(sources.folder.resolve()), "--served-model-name", MODEL),
        *("--device", "cpu", "--engine", "torch", "--host", "127.0.0.1", "--port", "{port}"),
    )
    return [
        Contender(
            "FastAPI + sentence-transformers",
            (*shell, "sentence-transformers", *place),
            absent=why_no_torch(sources.folder),
        ),
        Contender(
            "infinity-emb",
            infinity_words,
            path="/embeddings",
            absent="" if infinity.exists() else f"not installed: there is no {infinity}",
        ),
        Contender("FastAPI + plain batching queue", (*shell, "plain-queue", *place)),
    ]


def why_no_torch(folder: Path) -> str:
    """Why sentence-transformers cannot load the folder with torch; "" where it can."""
    if not importlib.util.find_spec("sentence_transformers"):
        return "not installed: sentence_transformers"
    return "" if (folder / "model.safetensors").exists() else f"{folder} has no model.safetensors"
