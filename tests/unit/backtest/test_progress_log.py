"""The time left is the pace of what is done, and a guess for what has not begun."""

from __future__ import annotations

from nightshift.backtest.progress_log import ProgressLog, RemainingWork


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_guessed_when_nothing_is_done():
    progress = ProgressLog(
        {"training": RemainingWork(10, 3.0), "policy": RemainingWork(4, 15.0)}, [].append, Clock()
    )
    assert progress.left() == "1:30"


def test_time_left_follows_the_pace_when_units_are_done():
    clock, lines = Clock(), []
    progress = ProgressLog(
        {"training": RemainingWork(10, 3.0), "policy": RemainingWork(2, 15.0)}, lines.append, clock
    )
    for at in (12.0, 24.0):
        clock.now = at
        progress.done("training", "flights learn 2013-07-01")
    assert progress.left() == "2:06"  # 8 trainings of 12 s and 2 policies of 15 s
    assert lines[-1] == "2:06 left: flights learn 2013-07-01, training 2 of 10"


def test_lines_are_ten_seconds_apart_when_units_are_quick():
    clock, lines = Clock(), []
    progress = ProgressLog({"gate": RemainingWork(30, 1.0)}, lines.append, clock)
    for at in range(1, 31):
        clock.now = float(at)
        progress.done("gate", f"night {at}")
    assert [line.rsplit(", ", 1)[1] for line in lines] == [
        "gate 1 of 30",
        "gate 11 of 30",
        "gate 21 of 30",
    ]


def test_nothing_is_left_when_more_is_done_than_was_planned():
    clock = Clock()
    progress = ProgressLog({"gate": RemainingWork(1, 1.0)}, [].append, clock)
    for at in (1.0, 2.0, 3.0):
        clock.now = at
        progress.done("gate", "more")
    assert progress.left() == "0:00"
