"""The order of the queue: fair between flows, the same within one, and cheap however many wait."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from poprt.runtime.fair_order import FairOrder
from poprt.runtime.request import Flow, Request

Order = FairOrder[Request]


def add_flow(order: Order, sizes: Sequence[int]) -> list[Request]:
    flow, requests = Flow(), [Request(size) for size in sizes]
    for request in requests:
        order.add(request, flow)
    return requests


def add(order: Order, size: int) -> Request:
    request = Request(size)
    order.add(request)
    return request


def take(order: Order, most: int = 8) -> list[Request]:
    """Take the head and, of the window, those that come nearest to it in size, as packs are chosen."""
    window = order.window()
    batch = sorted(window, key=lambda request: abs(request.size - window[0].size))[:most]
    order.take(batch)
    return batch


def drain(order: Order, most: int = 8) -> Iterator[list[Request]]:
    while order:
        yield take(order, most)


def test_requests_alone_go_in_the_order_of_their_arrival() -> None:
    order: Order = FairOrder(4)
    requests = [add(order, size) for size in (5, 1, 9, 3, 7, 2)]
    assert [batch[0] for batch in drain(order, 1)] == requests


@pytest.mark.parametrize("packs_before", [0, 1, 300])
@pytest.mark.parametrize("size", [1, 100, 500])
def test_one_late_request_is_in_the_next_pack_or_the_one_after_it(size: int, packs_before: int) -> None:
    order: Order = FairOrder(128)
    draw = random.Random(0)
    add_flow(order, [draw.randint(1, 500) for _ in range(10_000)])
    for _ in range(packs_before):
        take(order)
    late = add(order, size)
    assert late in take(order) + take(order)


def test_one_late_request_is_nearly_at_the_head_also_when_its_flow_was_cancelled_in_half() -> None:
    order: Order = FairOrder(128)
    for request in add_flow(order, [10] * 10_000)[:5000]:
        order.discard(request.ticket)
    take(order)
    newer = add_flow(order, [10] * 100)
    served = [request for _ in range(20) for request in take(order)]
    assert 40 <= sum(request in newer for request in served) <= 100  # neither waits for all of the other


@pytest.mark.parametrize("sizes", [(10, 10), (5, 50), (200, 3)])
def test_two_large_flows_get_about_as_many_tokens(sizes: tuple[int, int]) -> None:
    order: Order = FairOrder(128)
    first = add_flow(order, [sizes[0]] * 3000)
    for _ in range(20):
        take(order)
    second = add_flow(order, [sizes[1]] * 3000)
    flows = [{id(request) for request in requests} for requests in (first, second)]
    tokens = [0, 0]
    for _ in range(200):
        for request in take(order):
            tokens[id(request) in flows[1]] += request.size
        # Of the flow of large samples one pack more may have run, and of the other one what is in a window.
        assert abs(tokens[0] - tokens[1]) <= 8 * max(sizes) + 128 * min(sizes)
    assert min(tokens) > 0


def test_the_order_within_a_flow_stays() -> None:
    order: Order = FairOrder(16)
    flows = [add_flow(order, [size] * 50) for size in (7, 3, 11)]
    served = [request for batch in drain(order, 1) for request in batch]
    for requests in flows:
        assert [request for request in served if request in requests] == requests


def test_a_stream_of_others_starves_no_flow() -> None:
    order: Order = FairOrder(16)
    flow = add_flow(order, [100] * 5)
    last = flow[-1]
    for _ in range(64):
        add(order, 10)
    packs = 0
    while last.ticket in order and packs < 500:  # one flow of some 65: 400 tokens before the last one, 80 a pack
        packs += 1
        for _ in take(order):
            add(order, 10)  # as many come as go
    assert last.ticket not in order


@pytest.mark.parametrize("seed", range(30))
def test_the_window_is_what_sorting_everything_gives(seed: int) -> None:
    draw = random.Random(seed)
    order: Order = FairOrder(draw.choice([1, 3, 8]))
    waiting: list[Request] = []
    flows = [Flow() for _ in range(4)]
    for _ in range(600):
        action = draw.random()
        if action < 0.55:
            request = Request(draw.randint(0, 20))
            order.add(request, draw.choice([None, *flows]))
            waiting.append(request)
        elif action < 0.75 and waiting:
            request = waiting.pop(draw.randrange(len(waiting)))
            assert order.discard(request.ticket) is request
            assert order.discard(request.ticket) is None
        elif waiting:
            window = order.window()
            assert window == sorted(waiting, key=lambda r: (r.start, r.ticket))[: order._window]
            batch = [window[0], *draw.sample(window[1:], draw.randint(0, len(window) - 1))]
            order.take(batch)
            waiting = [request for request in waiting if request not in batch]
        assert len(order) == len(waiting)
        if waiting:
            assert order.head() is min(waiting, key=lambda r: (r.start, r.ticket))
        alone = sum(request.flow is None for request in waiting)
        assert order._flows == alone + len({id(r.flow) for r in waiting if r.flow is not None})
    assert order.clear() == waiting
    assert (len(order), order._flows) == (0, 0)
    assert order.window() == []


def test_cancelling_everything_looks_at_the_queue_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    order: Order = FairOrder(128)
    requests = add_flow(order, [3] * 20_000)
    order.window()
    tidied = []
    tidy = FairOrder._tidy
    monkeypatch.setattr(FairOrder, "_tidy", lambda self: (tidied.append(len(self)), tidy(self)))
    for request in requests:
        order.discard(request.ticket)
    assert len(tidied) < 15  # each time half of what was looked at is gone
    assert order.places() <= 64
