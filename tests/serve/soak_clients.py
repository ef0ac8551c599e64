"""The clients of the soak: they ask, judge, vanish now and then, and go on over restarts of the server."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.serve.http_client import Answer, Connection, NoAnswerError
from tests.serve.soak_requests import Ask

PATIENCE = 60.0
_DRAINING = 503
_AGAIN = 0.02
_SHOWN = 5


@dataclass
class Tally:
    """What the clients met.

    Attributes:
        begun: requests that were begun.
        right, refused: answers that were as they must be, to right and to invalid requests.
        vanished: requests whose client went away.
        wrong: answers that were not; the first few are in ``examples``.
        lost: requests that the server took and closed the connection on, with no answer.
        again: requests that a closing server had not taken, or refused as it drained; they were asked again.
    """

    begun: int = 0
    right: int = 0
    refused: int = 0
    vanished: int = 0
    wrong: int = 0
    lost: int = 0
    again: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def example(self, ask: Ask, text: str) -> None:
        """Keep one of the first few."""
        if len(self.examples) < _SHOWN:
            self.examples.append(f"{ask.request[:160]!r}: {text}")


@dataclass(frozen=True)
class Mix:
    """What is asked, and how often.

    Attributes:
        requests: in all.
        invalid_share, vanishing_share: of the requests.
    """

    port: int
    requests: int
    right: Sequence[Ask]
    invalid: Sequence[Ask]
    invalid_share: float = 0.01
    vanishing_share: float = 0.01


async def ask_all(mix: Mix, clients: int, tally: Tally) -> None:
    """Ask until all is asked.

    Raises:
        TimeoutError: a request was not answered in a minute.
    """
    await asyncio.gather(*(_Client(mix, number, tally).run() for number in range(clients)))


class _Client:
    def __init__(self, mix: Mix, number: int, tally: Tally) -> None:
        self._mix, self._tally = mix, tally
        self._rng = random.Random(number)
        self._connection: Connection | None = None

    async def run(self) -> None:
        while self._tally.begun < self._mix.requests:
            self._tally.begun += 1
            choice = self._rng.random()
            async with asyncio.timeout(PATIENCE):
                if choice < self._mix.vanishing_share:
                    await self._vanish(self._rng.choice(self._mix.right))
                elif choice < self._mix.vanishing_share + self._mix.invalid_share:
                    right = await self._ask(self._rng.choice(self._mix.invalid))
                    self._tally.refused += right  # not in one line: others count while this one waits
                else:
                    right = await self._ask(self._rng.choice(self._mix.right))
                    self._tally.right += right
        if self._connection is not None:
            self._connection.close()

    async def _ask(self, ask: Ask) -> bool:
        """Ask until the server has taken the request; return whether the answer is right."""
        while True:
            try:
                answer = await (await self._connected()).ask(ask.request)
            except NoAnswerError as error:
                if ask.may_close:
                    return True
                if error.reset:
                    self._tally.again += 1
                    continue
                self._tally.lost += 1
                self._tally.example(ask, str(error))
                return False
            if answer.status != _DRAINING:
                return self._judge(ask, answer)
            self._tally.again += 1
            await asyncio.sleep(_AGAIN)

    def _judge(self, ask: Ask, answer: Answer) -> bool:
        self._tally.statuses[answer.status] += 1
        right = ask.right(answer)
        if not right:
            self._tally.wrong += 1
            self._tally.example(ask, f"{answer.status} {answer.body[:160]!r}")
        return right

    async def _vanish(self, ask: Ask) -> None:
        """Go away in the middle of a request, right behind it, or while it is computed."""
        connection = await self._connected()
        if self._rng.random() < 0.5:
            connection.send(ask.request[: self._rng.randrange(1, len(ask.request))])
        else:
            connection.send(ask.request)
        await asyncio.sleep(self._rng.choice((0, 0.001, 0.005)))
        connection.close()
        self._tally.vanished += 1

    async def _connected(self) -> Connection:
        while self._connection is None or self._connection.closed:
            try:
                self._connection = await Connection.open(self._mix.port)
            except OSError:  # between two servers
                await asyncio.sleep(_AGAIN)
        return self._connection
