"""What a text model keeps in its executable: two members, bounded, under digests, and checked when they are read."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import pytest

from poprt import executable as executables
from poprt.errors import DamagedExecutableError, ExecutableError, InputError, PoprtError
from poprt.executable import TEXT, TOKENIZER, Executable
from poprt.text import TextModel
from tests.fuzz.files import sealed


def altered(path: Path, target: Path, **members: bytes) -> Path:
    """The executable with other members under right digests."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(contents["manifest.json"])
    body = {name: value for name, value in manifest.items() if name not in ("format", "format_version", "members")}
    texts = {TEXT: contents[TEXT], TOKENIZER: contents[TOKENIZER], **members}
    kept = {name: data for name, data in texts.items() if data}
    target.write_bytes(sealed(body, contents["model.onnx"], contents["weights.bin"], extra=kept))
    return target


def test_members_are_stored_with_digests_and_survive_saving(embedder_path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(embedder_path) as archive:
        assert archive.namelist()[3:5] == [TEXT, TOKENIZER]
        manifest = json.loads(archive.read("manifest.json"))
        assert {"sha256", "bytes"} == set(manifest["members"][TOKENIZER])
        assert "tokenizer" not in json.dumps({key: value for key, value in manifest.items() if key != "members"})
    again = tmp_path / "again.popef"
    Executable(embedder_path).save(again)
    assert again.read_bytes() == embedder_path.read_bytes()


def test_a_changed_tokenizer_is_noticed(embedder_path: Path, tmp_path: Path) -> None:
    data = bytearray(embedder_path.read_bytes())
    place = data.index(b'"model":{"type":"WordPiece"')
    data[place + 10] ^= 1
    path = tmp_path / "changed.popef"
    path.write_bytes(data)
    with pytest.raises(DamagedExecutableError, match=r"member 'tokenizer.json' is altered"):
        Executable(path)


def test_one_member_without_the_other_is_refused(embedder_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedExecutableError, match=r"its members are \['model.onnx', 'text.json', 'weights.bin'\]"):
        Executable(altered(embedder_path, tmp_path / "one.popef", **{TOKENIZER: b""}))


def test_a_member_beyond_its_size_is_neither_read_nor_written(
    embedder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Executable(embedder_path)
    monkeypatch.setitem(executables.TEXT_LIMITS, TOKENIZER, 100)  # type: ignore[attr-defined]
    with pytest.raises(DamagedExecutableError, match=r"member 'tokenizer.json' has \d+ bytes, at most 100 are read"):
        Executable(embedder_path)
    with pytest.raises(ExecutableError, match="is not written"):
        whole.save(tmp_path / "large.popef")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"task": 3}, "text.json field 'task' is 3, expected a text"),
        ({"task": "poetry"}, "text.json field 'task' is 'poetry', expected one of"),
        ({"more": 1}, "text.json field 'more' is not known to this poprt"),
        ({"prompts": {"a": None}}, r"text.json field .*prompts.* is None, expected a text"),
        ({"max_length": 0}, "text.json field 'max_length' is 0, expected 1 to 64"),
        ({"max_length": 65}, "text.json field 'max_length' is 65, expected 1 to 64"),
        ({"outputs": ["none"]}, "text.json field 'outputs'"),
        ({"dimension": 3}, "it names 3 values a row, the output has 64"),
        ({"task": "token-classification"}, "text.json field 'outputs'"),
        ({"task": "question-answering"}, "text.json field 'outputs'"),
        ({"default_prompt": "x"}, "text.json field 'default_prompt' is 'x', which is no prompt"),
        ({"truncation_side": "both"}, "text.json field 'truncation_side' is 'both'"),
    ],
)
def test_facts_that_cannot_be_are_named(
    fields: dict[str, object], complaint: str, embedder: TextModel, embedder_path: Path, tmp_path: Path
) -> None:
    body = {**dataclasses.asdict(embedder.facts), **fields}
    path = altered(embedder_path, tmp_path / "facts.popef", **{TEXT: json.dumps(body).encode()})
    with pytest.raises(DamagedExecutableError, match=complaint):
        TextModel(path)


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"\xff", b"3"])
def test_facts_that_are_none_are_one_error(data: bytes, embedder_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedExecutableError, match=r"text\.json"):
        TextModel(altered(embedder_path, tmp_path / "facts.popef", **{TEXT: data}))


@pytest.mark.parametrize("data", [b"{", b"{}", b'{"model": {"type": "WordPiece"}}', b"\xff"])
def test_a_tokenizer_that_is_none_is_one_error(data: bytes, embedder_path: Path, tmp_path: Path) -> None:
    with pytest.raises(PoprtError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        TextModel(altered(embedder_path, tmp_path / "tokenizer.popef", **{TOKENIZER: data}))


def test_an_id_that_no_table_has_is_one_error(embedder_path: Path, tmp_path: Path) -> None:
    tokenizer = json.loads(Executable(embedder_path).texts[TOKENIZER])
    tokenizer["model"]["vocab"]["bank"] = 2**31
    path = altered(embedder_path, tmp_path / "ids.popef", **{TOKENIZER: json.dumps(tokenizer).encode()})
    with TextModel(path) as model, pytest.raises(InputError, match="the tokenizer gives the id 2147483648"):
        model.encode(["the bank"])
