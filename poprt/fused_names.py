"""How callers name the tensors of several models in one executable: ``graph0/x``, or ``x`` where only one has it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from poprt.errors import InputError, PoprtError

#: What a request may give beside its inputs, to say which model it means.
INDEX = "index"
_PREFIXED = re.compile(r"graph(\d{1,6})/(.+)", re.DOTALL)


def prefix_of(index: int) -> str:
    """What the names of the tensors of model ``index`` begin with."""
    return f"graph{index}/"


def in_model(index: int, name: str) -> str:
    """The name of a tensor of model ``index``: ``x`` is ``graph0/x``."""
    return prefix_of(index) + name


def check_index(index: int, count: int, what: str = "index") -> int:
    """Return ``index``; raise PoprtError where there is no such model."""
    if not 0 <= index < count:
        models = f"models 0 to {count - 1}" if count > 1 else "only model 0"
        raise PoprtError(f"{what} {index}: the executable has {models}")
    return index


class FusedNames:
    """The names of the tensors of several models.

    Args:
        models: the plain names of each model's tensors.
    """

    def __init__(self, models: Sequence[Iterable[str]]) -> None:
        self._models = [frozenset(names) for names in models]

    def index_of(self, names: Iterable[str], among: Iterable[int] | None = None) -> int:
        """The one model that has all of ``names``, each with its prefix or plain.

        Args:
            names: of tensors.
            among: the models that come into question; None is all.

        Raises:
            InputError: a name is not known, several models have the names, or none has all of them.
        """
        candidates = set(range(len(self._models)) if among is None else among)
        listed = list(names)
        for name in listed:
            candidates &= self._owners(name)
        if len(candidates) == 1:
            return candidates.pop()
        if candidates:
            raise InputError(self._ambiguous(listed, sorted(candidates)))
        raise InputError(
            f"no model of the executable has {', '.join(map(repr, listed))} together: "
            + "; ".join(f"{name!r} is in {_models(self._owners(name))}" for name in listed)
        )

    def owner(self, name: str) -> int:
        """The one model that has ``name``; raise InputError as for :meth:`index_of`."""
        return self.index_of([name])

    def plain(self, index: int, name: str) -> str:
        """``name`` as model ``index`` itself has it."""
        return name if name in self._models[index] else name.removeprefix(prefix_of(index))

    def is_in_any(self, name: str) -> bool:
        """Whether a model has a tensor of this plain name."""
        return any(name in names for names in self._models)

    def _owners(self, name: str) -> set[int]:
        prefixed = _PREFIXED.fullmatch(name)
        if prefixed is not None and int(prefixed[1]) < len(self._models):
            index = int(prefixed[1])
            if prefixed[2] in self._models[index]:
                return {index}
        owners = {index for index, names in enumerate(self._models) if name in names}
        if not owners:
            raise InputError(f"unknown tensor {name!r}: the executable has {self._listed()}")
        return owners

    def _ambiguous(self, names: Sequence[str], candidates: Sequence[int]) -> str:
        if not names:
            return f"which model is meant is not said: the executable has {self._listed()}"
        name = names[0]
        prefixed = " or ".join(repr(in_model(index, name)) for index in candidates)
        return f"{name!r} is in {_models(candidates)}: say {prefixed}, or give the model's number as {INDEX!r}"

    def _listed(self) -> str:
        return ", ".join(in_model(index, name) for index, names in enumerate(self._models) for name in sorted(names))


def _models(indices: Iterable[int]) -> str:
    listed = sorted(indices)
    return ("model " if len(listed) == 1 else "models ") + " and ".join(map(str, listed))
