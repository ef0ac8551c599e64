"""Builds random encoders, packs each in every layout, and prints which of them are not isolated.

``python -m tests.isolation.search --seconds 600`` goes on until the time is up; ``--seed N`` tries one model again and
prints it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx.printer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.isolation.experiment import LAYOUTS, Reference, Verdict, try_layout
from tests.isolation.random_models import RandomModel, random_model

#: One model in so many is converted to int8 and to fp16 as well.
_OTHER_PRECISIONS = 8


def verdicts(case: RandomModel) -> Iterator[Verdict]:
    """Try a model in every layout; some models in other precisions too."""
    reference = Reference(case.model)
    for layout in LAYOUTS:
        yield try_layout(reference, layout)
    if case.seed % _OTHER_PRECISIONS == 0:
        layout = LAYOUTS[case.seed // _OTHER_PRECISIONS % len(LAYOUTS)]
        for precision in ("int8", "fp16"):
            yield try_layout(reference, layout, precision)


class Tally:
    """Counts verdicts and keeps the failures."""

    def __init__(self) -> None:
        self.models = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.failures: list[tuple[RandomModel, Verdict]] = []

    def add(self, case: RandomModel, verdict: Verdict) -> None:
        column = f"{verdict.layout} {verdict.precision}"
        accepted = not verdict.refused and bool(verdict.neighbours)
        self.counts[column, "refused" if verdict.refused else verdict.neighbours or "broken"] += 1
        self.counts[column, "accepted"] += accepted
        for name in ("dependent", "unequal"):
            self.counts[column, name] += bool(getattr(verdict, name))
        if verdict.refused:
            self.reasons[verdict.layout, verdict.cause] += 1
        if verdict.failed:
            self.failures.append((case, verdict))

    def print(self, console: Console) -> None:
        """The summary: what was accepted and what not, why, and each failure with its seed."""
        heads = ("accepted", "any", "same_length", "none", "refused", "dependent", "unequal", "broken")
        table = Table("layout", *heads, title=f"{self.models} models")
        for column in dict.fromkeys(column for column, _ in self.counts):
            table.add_row(column, *(str(self.counts[column, head]) for head in heads))
        console.print(table)
        why = Table("refusals", "layout", "reason")
        for (layout, text), count in self.reasons.most_common():
            why.add_row(str(count), layout, escape(text))
        console.print(why)
        for case, verdict in self.failures:
            console.print(
                f"--seed {case.seed}: {verdict}\n    {case.story}", markup=False, highlight=False, soft_wrap=True
            )


def search(first: int, seconds: float) -> Tally:
    """Try the models of the seeds from ``first`` on until the time is up."""
    tally, end = Tally(), time.monotonic() + seconds
    seed = first
    while time.monotonic() < end:
        case = random_model(seed)
        for verdict in verdicts(case):
            tally.add(case, verdict)
        tally.models, seed = tally.models + 1, seed + 1
    return tally


def show(seed: int) -> bool:
    """Try one model and print it; whether all is well."""
    case = random_model(seed)
    print(onnx.printer.to_text(case.model))
    print(case.story)
    results = list(verdicts(case))
    print(*results, sep="\n")
    return not any(verdict.failed for verdict in results)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long to search")
    parser.add_argument("--first", type=int, default=0, help="the first seed of the search")
    parser.add_argument("--seed", type=int, help="try the model of this seed alone, and print it")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    np.seterr(all="ignore")
    if arguments.seed is not None:
        return 0 if show(arguments.seed) else 1
    tally = search(arguments.first, arguments.seconds)
    tally.print(Console(width=max(Console().width, 120)))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
