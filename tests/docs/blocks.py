"""The code blocks of a Markdown page."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}.*\n(?:\n* {4}.*\n)*", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced or indented block: its language ("shell" or "python") and its text."""

    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.strip().splitlines()[0].strip()


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in order. A block that is not fenced as Python is taken for shell, drawings too."""
    placed_blocks: list[tuple[int, Block]] = []
    for match in _FENCE.finditer(page):
        placed_blocks.append((match.start(), Block("python" if match[1] == "python" else "shell", match[2])))
    without_fences = _FENCE.sub(lambda match: re.sub(r"[^\n]", "`", match[0]), page)
    for match in _INDENTED.finditer(without_fences):
        text = re.sub(r"^ {4}", "", match[0], flags=re.MULTILINE).strip("\n") + "\n"
        placed_blocks.append((match.start(), Block("shell", text)))
    return [block for _, block in sorted(placed_blocks, key=lambda item: item[0])]
