"""Balance: a factor for each channel, moved from an activation into the weights that it meets.

    [x1  x2] @ [w1]   =   [x1/s1  x2/s2] @ [s1 w1]
               [w2]                        [s2 w2]

A token has one scale for all its channels, and a column of a weight one for all its rows. So a channel that is larger
than the others takes steps from them in every token; with a factor it takes them from its row of the weight instead,
where there is room. The formula is that of SmoothQuant (Xiao et al. 2022, arXiv:2211.10438):
``s_k = max|x_k|^a / max|w_k|^(1-a)``. Which ``a`` errs least is measured, and nothing is balanced that gains little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from passes.precision.int8_rows import Rows
from passes.precision.int8_sites import Product
from passes.precision.int8_values import Floats, Rounding, quantise

EXPONENTS = (0.3, 0.4, 0.5, 0.6, 0.7)
#: Balance must leave no more than this of the error: products that gain less do the model as a whole no good.
_WORTH = 0.8
#: The error is measured on about so many columns of each weight.
_COLUMNS = 256
#: A channel counts as at least this part of the average one: one that the sample data never moved may move later.
_LEAST = np.float32(0.05)


def shared_groups(products: Sequence[Product]) -> list[list[Product]]:
    """Products that share an activation or a weight, be it by way of others: they need the same factors.

    Query, key and value of one activation are a group; layers that share a weight are one with all their activations.
    """
    groups: dict[int, list[Product]] = {}
    group_of: dict[object, int] = {}
    for number, site in enumerate(products):
        keys = (site.activation.name, site.weight_key)
        groups[number] = [site]
        for former in sorted({group_of[key] for key in keys if key in group_of}):
            groups[number] = groups.pop(former) + groups[number]
        group_of |= {key: number for member in groups[number] for key in (member.activation.name, member.weight_key)}
    return list(groups.values())


def choose_balance(group: Sequence[Product], rows: Mapping[str, Rows], limit: int) -> Floats | None:
    """The factors by which the products of a group err least together; None where it is hardly less than without.

    Args:
        group: of :func:`shared_groups`.
        rows: of each activation by its name.
        limit: the largest magnitude in a weight.

    Returns:
        float32 [channels]: what the activations are divided by, and the rows of the weights multiplied by.
    """
    trial = _Trial(group, rows, limit)
    with np.errstate(invalid="ignore", over="ignore"):
        unbalanced = trial.error(None)
        if not 0 < unbalanced < np.inf:  # NaN too: what is not finite stays as it is
            return None
        candidates = [trial.factors(exponent) for exponent in EXPONENTS]
        errors = [trial.error(factors) for factors in candidates]
    best = int(np.argmin(errors))
    return candidates[best] if errors[best] < _WORTH * unbalanced else None


class _Trial:
    """Computes the products of a group in both ways, on the sample rows and some columns."""

    def __init__(self, group: Sequence[Product], rows: Mapping[str, Rows], limit: int) -> None:
        self._limit = limit
        parts = {site.activation.name: rows[site.activation.name] for site in group}
        self._rows = {name: part.judged for name, part in parts.items()}
        self._largest = np.max([np.abs(part.told).max(axis=0, initial=0) for part in parts.values()], axis=0)
        matrices = {site.weight_key: site.matrix() for site in group}
        self._weight = np.max([np.abs(matrix).max(axis=1, initial=0) for matrix in matrices.values()], axis=0)
        some = {key: matrix[:, :: max(1, matrix.shape[1] // _COLUMNS)] for key, matrix in matrices.items()}
        self._sites = [(site.activation.name, some[site.weight_key]) for site in group]
        self._exact = [self._rows[name] @ matrix for name, matrix in self._sites]

    def factors(self, exponent: float) -> Floats:
        """The formula's factors, with an average of 1 and no channel beyond reach."""
        x, w = (np.maximum(part, max(_LEAST * part.mean(), 1e-30)) for part in (self._largest, self._weight))
        logarithms = exponent * np.log(x) - (1 - exponent) * np.log(w)
        factors: Floats = np.exp(logarithms - logarithms.mean()).astype(np.float32)
        return factors

    def error(self, factors: Floats | None) -> float:
        """Norm of the relative errors of all products."""
        rounded = {name: Rounding.best(values, factors).rounded(values) for name, values in self._rows.items()}
        squares = 0.0
        for (name, matrix), exact in zip(self._sites, self._exact, strict=True):
            multiplied = matrix if factors is None else matrix * factors[:, None]
            levels, scale = quantise(multiplied, 0, self._limit)
            norm = float(np.linalg.norm(exact))
            if norm:
                squares += (float(np.linalg.norm(rounded[name] @ (levels * scale) - exact)) / norm) ** 2
        return float(np.sqrt(squares))
