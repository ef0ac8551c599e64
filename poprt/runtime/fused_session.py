"""A session over an executable of several models: a run computes the models that it is about, and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poprt.engine.turns import Turns
from poprt.executable import Executable
from poprt.fused_names import FusedNames, in_model
from poprt.runtime.buffers import Array
from poprt.runtime.declared import DeclaredSession


class FusedSession:
    """Runs the models of an executable in the shapes and types that they declare.

    The models take turns with the cores (:class:`poprt.engine.turns.Turns`), and their threads rest between runs.

    Args:
        executable: of several models.
        opening: how an engine is opened on each model: the fields of :class:`poprt.runtime.opening.Opening`.
    """

    def __init__(self, executable: Executable, **opening: Any) -> None:
        opening |= {"spin_between_runs": False, "turns": Turns()}
        self._sessions = [DeclaredSession(model, **opening) for model in executable.models]
        specs = [(model.inputs, model.outputs) for model in executable.models]
        self._outputs = [[spec.name for spec in outputs] for _, outputs in specs]
        self._names = FusedNames([[spec.name for spec in (*inputs, *outputs)] for inputs, outputs in specs])

    def run(self, feeds: Mapping[str, Array], output_names: Sequence[str] | None = None) -> list[Array]:
        """Run each model that has one of the outputs. Safe to call from several threads.

        Args:
            feeds: an array for each input of these models, ``graph0/x``, or ``x`` where one model has it.
            output_names: outputs to return, likewise; None or none returns all of the models that are fed.

        Raises:
            InputError: a name is not known, or is in several models; or as for a session over one model.
        """
        fed: dict[int, dict[str, Array]] = {}
        for name, array in feeds.items():
            owner = self._names.owner(name)
            fed.setdefault(owner, {})[self._names.plain(owner, name)] = array
        asked = list(output_names or [in_model(index, name) for index in sorted(fed) for name in self._outputs[index]])
        owners = [self._names.owner(name) for name in asked]
        results: dict[tuple[int, str], Array] = {}
        places = [(owner, self._names.plain(owner, name)) for name, owner in zip(asked, owners, strict=True)]
        for index in sorted(set(owners)):
            names = list(dict.fromkeys(name for owner, name in places if owner == index))
            arrays = self._sessions[index].run(fed.get(index, {}), names)
            results.update(zip([(index, name) for name in names], arrays, strict=True))
        return [results[place] for place in places]
