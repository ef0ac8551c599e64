"""Every shell and Python block of the README and of docs/ runs, page by page, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: First line of a block that does not run -> why not. Nothing else is left out.
EXCEPTIONS = {
    "make demo     # pack a real sentence encoder, search with it, time it against padding, serve it": "runs make",
    "pip install .": "installs",
    "pip install '.[openvino]'": "installs",
    "poprt serve minilm=minilm.popef": "serves until it is stopped",
    "docker build -f deploy/Dockerfile -t poprt .": "needs Docker",
    'make bench                        # all of this page but "Over HTTP", in about 50 minutes': "takes long",
    "poprt_exec poprt_run_popef --popef unknown.popef --isolated": "stands for a stranger's file",
    "# asks a running server": "needs one",
    "pip install 'poprt[serve]'": "installs, and serves until it is stopped",
    "curl localhost:8000/v1/embeddings \\": "needs a server",
    "curl localhost:8000/embed \\": "needs a server",
    "models:": "is a file for --config, which the tests of `poprt serve` read",
    '# for Spark: df.withColumn("embedding", pandas_udf(embed, "array<float>")("text"))': "needs pandas",
    "# needs Ray": "needs Ray and a store; tests/poprt/ray calls the same",
    "# needs Ray, and a column of ids": "needs Ray",
    "# needs Ray, and serves": "serves until it is stopped; tests/poprt/ray calls the same",
    "# needs models": "serves models that stand for the reader's",
    """curl localhost:8000/v2/models/minilm/infer -d '{"inputs": [""": "needs a server",
    "poprt_exec: error: the isolated process crashed: SIGFPE": "is output",
    "ONNX file ─▶ passes ─▶ converted ONNX ─▶ compiler ─▶ executable.popef ─▶ runtime ─▶ arrays": "is a drawing",
    "packed [R, C]          unpacked [max_valid_num, segment_max_size]      unpack_info": "is a drawing",
    "mask           1 1 1 2 2 2 2 0          position_ids   0 1 2 0 1 2 3 0": "is a drawing",
}


def _run(block: Block, folder: Path) -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = [sys.executable, "-c", block.text] if block.language == "python" else ["sh", "-ec", block.text]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.first_line not in EXCEPTIONS:
            _run(block, tmp_path)


def test_each_exception_is_a_block_of_a_page() -> None:
    first_lines = {block.first_line for page in PAGES for block in blocks(page.read_text(encoding="utf-8"))}
    assert set(EXCEPTIONS) <= first_lines
    assert {"python -m models.build --model tiny --head qa model.onnx"} <= first_lines - set(EXCEPTIONS)


def test_blocks_are_found_in_fences_and_by_indentation() -> None:
    page = "Text\n\n    make x\n    make y\n\n```python\nprint(1)\n```\n\n    a b c   drawing\n\n```sh\nls\n```\n"
    assert [(block.language, block.first_line) for block in blocks(page)] == [
        ("shell", "make x"),
        ("python", "print(1)"),
        ("shell", "a b c   drawing"),
        ("shell", "ls"),
    ]
