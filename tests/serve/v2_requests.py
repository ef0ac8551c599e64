"""Requests for texts as JSON, and what is read of the answers."""

from __future__ import annotations

from typing import Any

import numpy as np


def json_texts(texts: list[str], name: str = "text", **fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": texts}], **fields}


def output_of(response: Any, name: str) -> np.ndarray:
    """An output of a JSON answer as an array."""
    assert response.status_code == 200, response.text
    (output,) = [item for item in response.json()["outputs"] if item["name"] == name]
    return np.array(output["data"]).reshape(output["shape"])


def error_of(response: Any) -> str:
    body = response.json()
    assert list(body) == ["error"]
    return str(body["error"])
