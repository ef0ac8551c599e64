"""Inputs that ``apply_host_concat_split`` joined: what a model or an executable says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from poprt.errors import DamagedExecutableError
from poprt.manifest_schema import read_record
from poprt_format.host_concat import HOST_CONCAT_KEY, JoinedInputs


def read_joined(metadata: Mapping[str, str]) -> list[JoinedInputs]:
    """The joined inputs that a model's metadata, or the texts beside an executable, tell of.

    Raises:
        DamagedExecutableError: they are no such thing.
    """
    text = metadata.get(HOST_CONCAT_KEY)
    if not text:
        return []
    try:
        entries = json.loads(text)
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise DamagedExecutableError(f"{HOST_CONCAT_KEY} is damaged; apply the pass again")
    return [read_record(JoinedInputs, entry, HOST_CONCAT_KEY) for entry in entries.values()]
