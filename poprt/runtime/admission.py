"""How much may wait, and the error of what is not let in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from poprt.errors import QueueFullError


class Pending(NamedTuple):
    """What waits for a run: requests, and their tokens (of a model runner: rows). Cancelled ones do not count."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait.

    Attributes:
        requests: at most.
        tokens: at most; None for no limit. A request alone is let into an empty queue whatever its size.
        unit: what tokens are called in messages.
    """

    requests: int
    tokens: int | None = None
    unit: str = "tokens"

    def admit(self, requests: int, tokens: int, count: int, size: int) -> bool:
        """Tell whether ``count`` requests of ``size`` tokens in all may join so many requests and tokens that wait."""
        if not requests and count <= 1:
            return True
        return requests + count <= self.requests and (self.tokens is None or tokens + size <= self.tokens)

    def refusal(self, pending: Pending, asked: Pending) -> QueueFullError:
        """The error of requests that are not let in beside those that wait."""
        most = f"at most {self.requests} requests" + ("" if self.tokens is None else f", {self.tokens} {self.unit}")
        if not self.admit(0, 0, *asked):
            return QueueFullError(
                f"{self._amount(asked)} are more than the queue takes ({most}): send them in parts", can_retry=False
            )
        return QueueFullError(
            f"the queue is full: {self._amount(pending)} wait ({most}), {self._amount(asked)} more were not queued; "
            "try again later"
        )

    def _amount(self, amount: Pending) -> str:
        plural = "" if amount.requests == 1 else "s"
        return f"{amount.requests} request{plural} with {amount.tokens} {self.unit}"
