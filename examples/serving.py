"""Serve an executable of texts on a free port, and ask it with the openai client."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from openai import OpenAI

from benchmarks.contenders import Array
from benchmarks.serve.starting import HOST, ServerProcess, healthy

PORT = 8000  # of `make serve`


def ask_server(executable: Path, name: str, lines: Sequence[str], report: Callable[[str], None]) -> Array:
    """The embeddings of ``lines``, float32 [n, d], from a server that runs for this one question.

    Raises:
        ServerError: the server does not start.
    """
    command = (sys.executable, "-m", "poprt", "serve", f"{name}={executable.resolve()}", "--port", "{port}")
    with ServerProcess("poprt serve", command, healthy) as server:
        address = f"http://{HOST}:{server.port}/v1"
        report(f"poprt serve {name}={executable} --port {server.port}: ready")
        client = OpenAI(base_url=address, api_key="none")
        answer = client.embeddings.create(model=name, input=list(lines))
        report(
            f"openai.OpenAI(base_url={address!r}).embeddings.create: {len(answer.data)} embeddings of "
            f"{len(answer.data[0].embedding)} numbers for {answer.usage.prompt_tokens} tokens"
        )
    return np.array([item.embedding for item in answer.data], np.float32)


def curl_line(name: str, text: str) -> str:
    """The line that asks the server of `make serve`."""
    body = json.dumps({"model": name, "input": text})
    return f"curl http://{HOST}:{PORT}/v1/embeddings -H 'content-type: application/json' -d '{body}'"
