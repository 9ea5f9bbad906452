"""Say in the task's log how far a long scoring is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0


class Progress:
    """Counts rows and logs them every ten seconds, with speed and time left.

    Args:
        what: What is scored.
        expected: About how many rows there will be.
    """

    def __init__(self, what: str, expected: int) -> None:
        self._what, self._expected, self._n_rows = what, expected, 0
        self._began = self._said = time.monotonic()

    def add(self, n_rows: int) -> None:
        """Count rows that are staged."""
        self._n_rows += n_rows
        now = time.monotonic()
        if now - self._said >= EVERY_SECONDS:
            self._said = now
            rate = self._n_rows / (now - self._began)
            left = max(self._expected - self._n_rows, 0) / rate if rate else 0.0
            logger.info(
                "%s: %s of about %s rows, %s rows/s, %.0f s left",
                self._what,
                *self._counts(),
                f"{rate:,.0f}",
                left,
            )

    def watch(self, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass batches on and count each one when the next is asked for."""
        for batch in batches:
            yield batch
            self.add(batch.num_rows)

    def end(self) -> None:
        """Say what was done in all."""
        seconds = time.monotonic() - self._began
        logger.info(
            "%s: %s rows in %.1f s, %s rows/s",
            self._what,
            f"{self._n_rows:,}",
            seconds,
            f"{self._n_rows / max(seconds, 1e-9):,.0f}",
        )

    def _counts(self) -> tuple[str, str]:
        return f"{self._n_rows:,}", f"{self._expected:,}"
