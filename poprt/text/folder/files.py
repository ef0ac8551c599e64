"""The files of a model's folder."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from poprt.errors import PoprtError
from poprt.model_file import read_external_data, read_proto

#: Where exporters put the graph, the first that is there.
GRAPHS = ("model.onnx", "onnx/model.onnx")
_LARGEST = 64 << 20  # bytes of a JSON file; tokenizers have 35 MB at most


class ModelFolder:
    """A folder as transformers or sentence-transformers saves it, with its export. Files are read when asked for.

    Raises:
        PoprtError: it is no folder, or lacks a tokenizer or an ONNX file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise PoprtError(f"{str(path)!r} is no folder: give one that transformers or sentence-transformers saved")
        graph = next((self.path / name for name in GRAPHS if (self.path / name).is_file()), None)
        if graph is None:
            raise PoprtError(self._no_graph())
        self.graph_path = graph
        if not (self.path / "tokenizer.json").is_file():
            raise PoprtError(
                f"{str(path)!r} has no tokenizer.json: write one with transformers, "
                "AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
            )

    def _no_graph(self) -> str:
        others = sorted(
            item.relative_to(self.path).as_posix()
            for pattern in ("*.onnx", "*/*.onnx")
            for item in self.path.glob(pattern)
        )
        instead = f" (it has {', '.join(others[:4])}: rename the one to take)" if others else ""
        return (
            f"{str(self.path)!r} has neither {' nor '.join(GRAPHS)}{instead}: export one with "
            f"`optimum-cli export onnx --model {self.path} {self.path / 'onnx'}`"
        )

    def model(self) -> onnx.ModelProto:
        """The graph with its weights.

        Raises:
            PoprtError: it, or a file with its weights, cannot be read.
        """
        model = read_proto(self.graph_path)
        read_external_data(model, self.graph_path)
        return model

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            PoprtError: it cannot be read, or is larger than such a file is.
        """
        path = self.path / name
        try:
            if path.stat().st_size > _LARGEST:
                raise PoprtError(f"{str(path)!r} has more than {_LARGEST} bytes")
            return path.read_bytes()
        except OSError as error:
            raise PoprtError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error

    def json(self, name: str) -> Any:
        """A JSON file; None where there is none.

        Raises:
            PoprtError: it is no JSON.
        """
        if not (self.path / name).is_file():
            return None
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise PoprtError(f"{str(self.path / name)!r} is no JSON: {error}") from error

    def table(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where there is no such file.

        Raises:
            PoprtError: the file holds something else.
        """
        value = self.json(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise PoprtError(f"{str(self.path / name)!r} is no JSON object")
        return value

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``, what transformers says of the model."""
        return self.table("config.json")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """``tokenizer_config.json``."""
        return self.table("tokenizer_config.json")

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """``unk_token`` and the like -> the token. ``tokenizer_config.json`` decides, as in transformers."""
        both = {**self.table("special_tokens_map.json"), **self.tokenizer_config}
        names = [name for name in both if name.endswith("_token")]
        contents = {name: both[name]["content"] if isinstance(both[name], dict) else both[name] for name in names}
        return {name: token for name, token in contents.items() if isinstance(token, str)}

    def whole(self, table: dict[str, Any], field: str, file: str) -> int:
        """A whole number of a table, 0 where it says none.

        Raises:
            PoprtError: it is something else.
        """
        value = table.get(field)
        if value is None:
            return 0
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # transformers writes "no limit" as 1e30
        if type(value) is not int or value < 0:
            raise PoprtError(f"{str(self.path / file)!r}: {field} is {value!r}, expected a whole number")
        return value
