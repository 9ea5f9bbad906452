"""How far a long measurement is: what it does now, and how long the rest will take at the pace of what is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PAUSE_SECONDS = 10.0
"""Between two lines, so that a log stays readable."""


@dataclass
class RemainingWork:
    """Work of one kind.

    Attributes:
        n_units: All units.
        guess_seconds: Expected seconds of a unit, until one is done.
        n_done: Finished units.
        seconds: What they took.
    """

    n_units: int
    guess_seconds: float
    n_done: int = 0
    seconds: float = 0.0

    @property
    def left_seconds(self) -> float:
        """Return how long the rest will take."""
        pace = self.seconds / self.n_done if self.n_done else self.guess_seconds
        return pace * max(0, self.n_units - self.n_done)


@dataclass
class ProgressLog:
    """Progress over several kinds of work, one after the other or side by side; threads may share it.

    Attributes:
        work: By kind.
        say: Prints a line.
        clock: Seconds that only rise.
    """

    work: Mapping[str, RemainingWork]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _last_unit: float = field(init=False)
    _last_line: float = field(init=False, default=float("-inf"))
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Begin now."""
        self._last_unit = self.clock()

    def done(self, kind: str, now: str) -> None:
        """Count a finished unit, and say what was done and how long the rest will take, unless a line was printed just now."""
        with self._lock:
            at, work = self.clock(), self.work[kind]
            work.n_done += 1
            work.seconds += at - self._last_unit
            self._last_unit = at
            if at - self._last_line >= PAUSE_SECONDS:
                self._last_line = at
                self.say(f"{self.left()} left: {now}, {kind} {work.n_done} of {work.n_units}")

    def left(self) -> str:
        """Return how long all the rest will take, as minutes and seconds."""
        seconds = round(sum(work.left_seconds for work in self.work.values()))
        return f"{seconds // 60}:{seconds % 60:02d}"
