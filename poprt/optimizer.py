"""Run passes by name, as older scripts do."""

from passes.manager import PassManager


class Optimizer(PassManager):
    """The older name of :class:`~passes.manager.PassManager`: ``Optimizer(["constant_folding"]).run(model)``."""


__all__ = ["Optimizer"]
