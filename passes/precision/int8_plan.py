"""How each product is computed in int8, decided by the errors on rows of its activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from passes.precision.int8_balance import choose_balance, shared_groups
from passes.precision.int8_feedback import moments, round_with_feedback
from passes.precision.int8_measure import product_error
from passes.precision.int8_rows import Rows
from passes.precision.int8_sites import Product
from passes.precision.int8_values import Floats, QuantisedWeights, Rounding, relative_error

#: Error feedback must leave no more than this of a product's error.
_WORTH = 0.97


@dataclass
class Plan:
    """What was decided. The levels of the weights stand in the :class:`QuantisedWeights` that it was made with.

    Attributes:
        roundings: of each activation that there was data for, by its name.
        errors: of each product, in their order.
        fed_back: how many weights were rounded with error feedback.
    """

    roundings: dict[str, Rounding] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    fed_back: int = 0

    def rounding(self, site: Product) -> Rounding:
        """How the activation of a product becomes uint8."""
        return self.roundings.get(site.activation.name, Rounding())


def plan_blindly(products: Sequence[Product], weights: QuantisedWeights) -> Plan:
    """A plan without data: nothing but the errors of the weights is known."""
    errors = [relative_error(site.matrix(), *weights.columns(*site.weight_key, site.matrix())) for site in products]
    return Plan(errors=errors)


def plan_on_rows(
    products: Sequence[Product],
    rows: Mapping[str, Floats],
    weights: QuantisedWeights,
    *,
    balance: bool,
    feedback: bool,
) -> Plan:
    """A plan by the errors that products have on sample data.

    Args:
        products: of one graph.
        rows: of each activation by its name, float32 [rows, channels].
        weights: quantises, and is told of what is not quantised plainly.
        balance: whether channels may be balanced.
        feedback: whether weights may be rounded with error feedback.
    """
    plan, errors = Plan(), {}
    for group in shared_groups(products):
        parted = {name: Rows.parted(rows[name]) for name in {site.activation.name for site in group}}
        factors = choose_balance(group, parted, weights.limit) if balance else None
        for site in group:
            name = site.activation.name
            if name not in plan.roundings:
                plan.roundings[name] = Rounding.best(rows[name], factors)
            if factors is not None:
                weights.multiply(*site.weight_key, site.matrix(), factors)
        if feedback:
            plan.fed_back += _feed_back(group, parted, plan, weights)
        for site in group:
            judged = parted[site.activation.name].judged
            errors[id(site)] = product_error(site, judged, plan.rounding(site), weights)
    plan.errors = [errors[id(site)] for site in products]
    return plan


def _feed_back(group: Sequence[Product], rows: Mapping[str, Rows], plan: Plan, weights: QuantisedWeights) -> int:
    """Round the weights of a group with error feedback, where the rows that judge say that it helps; how many."""
    readers: dict[tuple[str, bool], list[Product]] = {}
    for site in group:
        readers.setdefault(site.weight_key, []).append(site)
    lower: dict[frozenset[str], NDArray[np.float64]] = {}
    count = 0
    for sites in readers.values():
        names = frozenset(site.activation.name for site in sites)
        told = [plan.roundings[name].divided(rows[name].told) for name in sorted(names)]
        if not all(np.isfinite(values).all() for values in (*told, sites[0].matrix())):
            continue
        if names not in lower:
            lower[names] = moments(np.concatenate(told))
        count += _round_better(sites, rows, plan, weights, lower[names])
    return count


def _round_better(
    sites: Sequence[Product],
    rows: Mapping[str, Rows],
    plan: Plan,
    weights: QuantisedWeights,
    lower: NDArray[np.float64],
) -> bool:
    """Round the weight that ``sites`` share with error feedback; tell whether that helps, and was kept."""
    key, matrix, factors = sites[0].weight_key, sites[0].matrix(), plan.rounding(sites[0]).factors
    plain = weights.columns(*key, matrix)
    before = _errors(sites, rows, plan, weights)
    multiplied = matrix if factors is None else matrix * factors[:, None]
    weights.put(*key, (round_with_feedback(multiplied, plain[1], lower, weights.limit), plain[1]))
    if _errors(sites, rows, plan, weights) <= _WORTH * before:
        return True
    weights.put(*key, plain)
    return False


def _errors(sites: Sequence[Product], rows: Mapping[str, Rows], plan: Plan, weights: QuantisedWeights) -> float:
    """The sum of the errors of products on the rows that judge."""
    return sum(product_error(site, rows[site.activation.name].judged, plan.rounding(site), weights) for site in sites)
