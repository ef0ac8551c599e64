"""What is served: a folder that sentence-transformers can load, its executables, and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.texts import texts, topics

#: Texts of one call in process, about: shorter lists are repeated.
_CALL = 480
#: The precisions that are compared, the exact one first.
PRECISIONS = ("fp32", "int8")


def _queries() -> list[str]:
    return [query for topic in topics() for query in topic.queries]


def _short() -> list[str]:
    return [line for topic in topics() for line in topic.queries + topic.sentences]


def _demo() -> list[str]:
    return [item.text for item in texts()]


#: Lists of texts by name: search queries (6 tokens on average), queries and single sentences (17), and the demo's (36).
TEXTS: dict[str, Callable[[], list[str]]] = {"queries": _queries, "short": _short, "demo": _demo}


def one_call(name: str) -> list[str]:
    """The list of this name, as often as makes a call of a few hundred texts."""
    once = TEXTS[name]()
    return once * max(1, _CALL // len(once))


@dataclass(frozen=True)
class Sources:
    """A folder and what ``poprt pack`` made of it.

    Attributes:
        folder: with ``onnx/model.onnx`` and the weights for torch.
        executables: by precision.
    """

    folder: Path
    executables: dict[str, Path]


def prepare(folder: Path | None, work: Path, report: Callable[[str], None]) -> Sources:
    """Pack the folder in each precision; without one, write the real MiniLM's first.

    Raises:
        MiniLMNotFoundError: its weights are not installed.
        PoprtError: the folder cannot be packed.
    """
    # Here: the processes of encoders import this file, and need neither onnx nor the compiler.
    from models.minilm_folder import write_minilm_folder
    from poprt.text import PackOptions, pack

    folder = folder or write_minilm_folder(work / "minilm", weights=True)
    executables = {}
    for precision in PRECISIONS:
        executables[precision] = work / f"{precision}.popef"
        pack(folder, executables[precision], PackOptions(precision=precision, progress=False))
        report(f"packed {folder}, {precision}")
    return Sources(folder, executables)
