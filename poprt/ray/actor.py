"""A text model in an actor of Ray: it keeps to the cores that the actor has."""

from __future__ import annotations

import math
import os
from pathlib import Path

import ray

from poprt.runtime.config import PackRunnerConfig
from poprt.text.model import TextModel

#: Tokens that a pack aims at where nobody says it. To search it would take each actor 1.5 seconds of its life.
TOKEN_BUDGET = 512


def actor_cores() -> int:
    """The cores of this actor (``num_cpus``), at least 1.

    Ray tells its number through OMP_NUM_THREADS, which the engine does not read, and binds no actor to cores.
    """
    cores: float = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)
    return max(1, math.ceil(cores))


def open_model(executable: str | Path, token_budget: int | None) -> TextModel:
    """A text model with a lane for each core of this actor, and as many threads of the engine and of the tokenizer."""
    cores = actor_cores()
    os.environ.setdefault("RAYON_NUM_THREADS", str(cores))  # the tokenizer's, which are made at its first batch
    config = PackRunnerConfig(lanes=cores, token_budget=TOKEN_BUDGET if token_budget is None else token_budget)
    return TextModel(executable, config, threads=cores)
