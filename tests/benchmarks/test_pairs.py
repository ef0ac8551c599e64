"""Pairs of slices and the machine's drift, by a clock that only the work moves."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from benchmarks.comparison import Comparison
from benchmarks.drift import Reference, drift
from benchmarks.pair_table import comparison_table, drift_text
from benchmarks.pairs import Paired, Quartiles, repeated, run_pairs


class FakeMachine:
    """Its clock moves by the seconds of each piece of work, divided by the machine's speed at that time."""

    def __init__(self, speed: Callable[[float], float] = lambda _: 1.0) -> None:
        self.now = 0.0
        self._speed = speed

    def clock(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds / self._speed(self.now)

    def reference(self) -> Reference:
        return Reference(lambda: self.work(0.001), self.clock)

    def pairs(self, ours: float, theirs: float, pairs: int = 7, deadline: float = float("inf")) -> Paired:
        sides = [repeated(lambda s=s: self.work(s), 0.5, self.clock) for s in (ours, theirs)]  # type: ignore[misc]
        reference = self.reference()
        return run_pairs(sides[0], sides[1], pairs, reference=reference, deadline=deadline, clock=self.clock)


def test_quartiles_lie_between_neighbours_and_turn_with_the_ratio() -> None:
    quartiles = Quartiles.of([4.0, 1.0, 2.0, 8.0])
    assert quartiles == Quartiles(1.75, 3.0, 5.0)
    assert quartiles.inverse() == Quartiles(1 / 5, 1 / 3, 1 / 1.75)
    assert Quartiles.of([2.0]) == Quartiles(2.0, 2.0, 2.0)


def test_sides_take_turns_and_each_slice_has_its_number() -> None:
    turns: list[tuple[str, int]] = []

    def side(name: str) -> Callable[[int], float]:
        def run(turn: int) -> float:
            turns.append((name, turn))
            return 1.0

        return run

    paired = run_pairs(side("A"), side("B"), 3, reference=FakeMachine().reference())
    assert turns == [("A", 0), ("B", 0), ("A", 1), ("B", 1), ("A", 2), ("B", 2)]
    assert paired.pairs == 3


def test_the_ratio_is_taken_pair_by_pair_and_then_its_median() -> None:
    ours, theirs = [2.0, 4.0, 9.0], [1.0, 4.0, 3.0]
    paired = run_pairs(ours.__getitem__, theirs.__getitem__, 3, reference=FakeMachine().reference())
    assert paired.ratio == Quartiles(1.5, 2.0, 2.5)
    assert (paired.ours.median, paired.theirs.median) == (4.0, 3.0)


def test_a_machine_that_slows_down_for_a_while_leaves_the_ratio_and_is_named() -> None:
    machine = FakeMachine(lambda now: 0.5 if 3 < now < 8 else 1.0)
    paired = machine.pairs(0.05, 0.1)
    assert paired.ratio.median == pytest.approx(2, rel=0.02)
    assert paired.drift == pytest.approx(1)
    assert paired.drifted
    assert drift_text(paired) == "machine drifted 100%"


def test_a_steady_machine_is_not_called_drifting() -> None:
    paired = FakeMachine().pairs(0.05, 0.1)
    assert paired.ratio.low == pytest.approx(paired.ratio.high)
    assert paired.drift == pytest.approx(0, abs=1e-9)
    assert not paired.drifted
    assert drift_text(paired) == "0%"


def test_drift_is_called_so_above_a_fifth() -> None:
    flat = Quartiles(1, 1, 1)
    assert not Paired(flat, flat, flat, 7, 0.2).drifted
    assert Paired(flat, flat, flat, 7, 0.21).drifted


def test_one_late_note_is_no_drift_and_two_in_a_row_are() -> None:
    assert drift([1.0, 1.0, 1.0, 9.0, 1.0, 1.0]) == 0
    assert drift([1.0, 1.0, 1.5, 1.5, 1.0, 1.0]) == 0.5
    assert drift([1.0, 1.0]) == 0


def test_the_reference_gives_its_fastest_of_three() -> None:
    times: Iterator[float] = iter([0.0, 5.0, 10.0, 12.0, 20.0, 24.0])
    assert Reference(lambda: None, lambda: next(times)).seconds() == 2.0


def test_a_unit_of_work_that_takes_longer_than_a_slice_runs_once() -> None:
    machine = FakeMachine()
    assert repeated(lambda: machine.work(4.0), 0.5, machine.clock)(0) == 0.25
    assert machine.now == 4.0
    assert repeated(lambda: machine.work(0.25), 0.5, machine.clock)(0) == 4.0
    assert machine.now == 4.5


def test_late_pairs_are_left_out_all_but_three_and_the_table_says_so() -> None:
    paired = FakeMachine().pairs(0.05, 0.1, deadline=0.0)
    assert paired.pairs == 3
    assert drift_text(paired) == "0%, 3 pairs only"


def test_the_table_has_the_ratio_of_times_or_of_rates_with_quartiles_and_memory() -> None:
    paired = Paired(Quartiles(8, 10, 12), Quartiles(4, 5, 6), Quartiles(1.6, 2.0, 2.5), 7, 0.5)
    comparison = Comparison("one case", paired, 1e-6, (2**20, 3 * 2**20))
    texts = []
    for throughput in (False, True):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(comparison_table("title", [comparison], throughput=throughput))
        texts.append(console.export_text())
    for text, ratio in zip(texts, ("0.50 [0.40 - 0.62]", "2.00 [1.60 - 2.50]"), strict=True):
        (line,) = [line for line in text.splitlines() if "one case" in line]
        cells = [cell.strip() for cell in line.strip().strip("│").split("│")]
        assert cells == ["one case", ratio, "100.00", "200.00", "machine drifted 50%", "1.0e-06", "1", "3"]
