"""Stand-ins for the engine are not timed: what they take is noise, and a pack is chosen by what packs cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from poprt.runtime import across_rows_worker
from poprt.runtime.budget import Timer, pack_timer
from tests.poprt.runtime.fake_engine import FakeEngine


@pytest.fixture(autouse=True)
def untimed_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token of a stand-in takes a microsecond."""

    def timer(session: Any, *options: Any) -> Timer:
        fake = isinstance(session._session, FakeEngine)
        return _a_microsecond_a_token if fake else pack_timer(session, *options)

    monkeypatch.setattr(across_rows_worker, "pack_timer", timer)


def _a_microsecond_a_token(lengths: Sequence[int]) -> float:
    return 1e-6 * sum(lengths)
