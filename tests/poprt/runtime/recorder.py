"""A worker that records its batches, for tests of the batcher."""

import threading

from poprt.runtime.batching import Batcher, Request

SOON = 20  # seconds that a test waits for something that happens at once


class Death(BaseException):
    """Ends a dispatcher, as no ordinary error does."""


class Recorder:
    """Groups requests in batches of up to ``most`` and runs them when the gate is open."""

    def __init__(self, most=4):
        self.most = most
        self.batches = []
        self.released = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.errors = {}

    def is_full(self, count, size):
        return count >= self.most

    def choose(self, window):
        if "choose" in self.errors:
            raise self.errors["choose"]
        return list(window[: self.most])

    def release(self, batch):
        self.released.append([request.size for request in batch])

    def run(self, batch):
        self.batches.append([request.size for request in batch])
        self.entered.set()
        assert self.gate.wait(SOON)
        for request in batch:
            if request.size in self.errors:
                raise self.errors[request.size]
        return 0.0


def blocked(most=4, **options):
    """Return a recorder that is inside a run of request 0, its batcher, and request 0's future."""
    recorder = Recorder(most)
    recorder.gate.clear()
    batcher = Batcher(recorder, **options)
    first = batcher.submit(Request(0))
    assert recorder.entered.wait(SOON)
    return recorder, batcher, first
