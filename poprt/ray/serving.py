"""The application of :mod:`poprt.serve` as a deployment of Ray Serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from ray import serve

from poprt.errors import PoprtError
from poprt.ray.metrics import ExportedMetrics
from poprt.serve.app import create_app
from poprt.serve.options import ServeOptions

if TYPE_CHECKING:
    from ray.serve import Application

#: Requests that a replica has at once, at most. Ray's own default of 5 would be the most texts of a pack.
MOST_ONGOING = 256
#: Requests of a replica that autoscaling aims at: some packs' worth, so that a lane never waits for the next one.
TARGET_ONGOING = 64


class Replica:
    """What Ray asks a replica beside requests. The wrapper of ``serve.ingress`` adds ``app``."""

    app: FastAPI

    def check_health(self) -> None:
        """Raise PoprtError where a lane of a model died: Ray then replaces this replica."""
        for name, model in self.app.state.poprt.models.items():
            if not model.ready:
                raise PoprtError(f"model {name!r}: a lane of the runner died: {model.runner.failure!r}")


def deployment(
    models: Mapping[str, str | Path],
    options: ServeOptions | None = None,
    *,
    replicas: int | tuple[int, int] = 1,
    num_cpus: int = 1,
    max_ongoing_requests: int = MOST_ONGOING,
    **ray_options: Any,
) -> Application:
    """The server of models for ``serve.run``: ``serve.run(deployment({"minilm": "minilm.popef"}, replicas=2))``.

    Args:
        models: name -> path of an executable, on every node; the first one answers where a request names none.
        options: limits, key and runner; those of the process (host, port, workers, TLS, ...) are Ray's matter. Where
            ``lanes`` and ``threads`` are None they follow ``num_cpus``.
        replicas: how many, or the least and the most of them: then Ray aims at 64 requests a replica.
        num_cpus: cores of each.
        max_ongoing_requests: what a replica has at once; more wait at the proxy.
        ray_options: further ones of ``serve.deployment``, such as ``name`` or ``autoscaling_config``.

    Raises:
        PoprtError: there is no model.
    """
    if not models:
        raise PoprtError("models: expected at least one, as {'name': 'model.popef'}")
    options = options or ServeOptions()
    options = dataclasses.replace(options, lanes=options.lanes or num_cpus, threads=options.threads or num_cpus)
    paths = {name: str(path) for name, path in models.items()}

    def build() -> FastAPI:
        return create_app(paths, options, ExportedMetrics())

    settings = {
        "name": "poprt",
        "max_ongoing_requests": max_ongoing_requests,
        "ray_actor_options": {"num_cpus": num_cpus},
        **_scale(replicas),
        **ray_options,
    }
    return serve.deployment(**settings)(serve.ingress(build)(Replica)).bind()


def _scale(replicas: int | tuple[int, int]) -> dict[str, Any]:
    if isinstance(replicas, int):
        return {"num_replicas": replicas}
    least, most = replicas
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": TARGET_ONGOING,
        }
    }
