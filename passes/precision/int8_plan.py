"""How each product is computed in int8, decided by the errors on rows of its activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from passes.precision.int8_balance import choose_balance, shared_groups
from passes.precision.int8_measure import product_error
from passes.precision.int8_sites import Product
from passes.precision.int8_values import Floats, QuantisedWeights, Rounding, relative_error


@dataclass
class Plan:
    """What was decided. The levels of the weights stand in the :class:`QuantisedWeights` that it was made with.

    Attributes:
        roundings: of each activation that there was data for, by its name.
        errors: of each product, in their order.
    """

    roundings: dict[str, Rounding] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)

    def rounding(self, site: Product) -> Rounding:
        """How the activation of a product becomes uint8."""
        return self.roundings.get(site.activation.name, Rounding())


def plan_blindly(products: Sequence[Product], weights: QuantisedWeights) -> Plan:
    """A plan without data: nothing but the errors of the weights is known."""
    errors = [relative_error(site.matrix(), *weights.columns(*site.weight_key, site.matrix())) for site in products]
    return Plan(errors=errors)


def plan_on_rows(
    products: Sequence[Product], rows: Mapping[str, Floats], weights: QuantisedWeights, *, balance: bool
) -> Plan:
    """A plan by the errors that products have on sample data.

    Args:
        products: of one graph.
        rows: of each activation by its name, float32 [rows, channels].
        weights: quantises, and is told of what is not quantised plainly.
        balance: whether channels may be balanced.
    """
    plan = Plan()
    for group in shared_groups(products):
        factors = choose_balance(group, rows, weights.limit) if balance else None
        for site in group:
            name = site.activation.name
            if name not in plan.roundings:
                plan.roundings[name] = Rounding.best(rows[name], factors)
            if factors is not None:
                weights.multiply(*site.weight_key, site.matrix(), factors)
    plan.errors = [product_error(site, rows[site.activation.name], plan.rounding(site), weights) for site in products]
    return plan
