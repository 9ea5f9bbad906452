"""Log the progress of long work: what was done, and how long the rest will take at its pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PAUSE_SECONDS = 10.0
"""Between two lines, so that a log stays readable."""


@dataclass
class RemainingWork:
    """Work of one type, counted in units.

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
        pace = self.guess_seconds
        if self.n_done:
            pace = self.seconds / self.n_done
        # There may be more units than were planned: gates of triggered policies.
        n_left = max(0, self.n_units - self.n_done)
        return pace * n_left


@dataclass
class ProgressLog:
    """Progress over several types of work, in sequence or in parallel; threads may share it.

    Attributes:
        work: By type.
        log: Prints a line.
        clock: Seconds that only rise.
    """

    work: Mapping[str, RemainingWork]
    log: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Begin now."""
        self._lock = threading.Lock()
        self._last_unit = self.clock()
        # The first unit is logged at once: it tells that the work has begun.
        self._last_line = float("-inf")

    def done(self, work_type: str, what: str) -> None:
        """Count a finished unit, and log it unless the last line is too recent."""
        with self._lock:
            now = self.clock()
            work = self.work[work_type]
            work.n_done += 1
            # Time since the last unit of any type: work in parallel counts once.
            work.seconds += now - self._last_unit
            self._last_unit = now
            if now - self._last_line < PAUSE_SECONDS:
                return
            self._last_line = now
            count = f"{work_type} {work.n_done} of {work.n_units}"
            self.log(f"{self.left()} left: {what}, {count}")

    def left(self) -> str:
        """Return how long all the rest will take, as minutes and seconds.

        It is a guess until one unit of each type is done.
        """
        parts = [work.left_seconds for work in self.work.values()]
        seconds = round(sum(parts))
        return f"{seconds // 60}:{seconds % 60:02d}"
