"""Let one stage of a stream work while the next one does: each runs in a thread of its own, a bounded number of items ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

Item = TypeVar("Item")

N_WAITING = 2
"""Items that may wait between two stages: enough to even out their speeds, and no more memory
than that.
"""
_LOOK_SECONDS = 0.1


class Prefetcher(Generic[Item]):
    """Iterates over items that a thread takes from their source in advance; use as a context manager.

    Whatever the source raises is raised here, at its place in the order. When the block ends, for
    whatever reason, the thread takes no further item, gives up the one that it is just taking, and
    closes a source that is a generator. Whoever still waits for an item, in another thread, gets an
    ``InterruptedError``: an end would look like the whole.

    Args:
        source: Iterated in the thread.
        n_waiting: Items taken in advance at most.
    """

    def __init__(self, source: Iterable[Item], n_waiting: int = N_WAITING) -> None:
        self._source = source
        self._waiting: queue.Queue[tuple[Item | None, BaseException | None, bool]] = queue.Queue(
            n_waiting
        )
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"ahead of {threading.current_thread().name}", daemon=True
        )

    def __enter__(self) -> Iterator[Item]:
        return self.start()

    def start(self) -> Iterator[Item]:
        """Begin, where no block can say when it ends; ``stop`` ends it."""
        self._thread.start()
        return self._items()

    def stop(self) -> None:
        """End it, without waiting for the thread."""
        self._is_stopped.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if kind is None:
            self._thread.join()

    def _items(self) -> Iterator[Item]:
        while True:
            try:
                item, error, is_last = self._waiting.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._is_stopped.is_set():
                    raise InterruptedError("the stream was stopped") from None
                continue
            if error is not None:
                raise error
            if is_last:
                return
            yield item  # type: ignore[misc]  # an item unless it is the last

    def _run(self) -> None:
        try:
            for item in self._source:
                if not self._offer((item, None, False)):
                    return
        except BaseException as error:  # noqa: BLE001  (the other thread decides what it means)
            self._offer((None, error, False))
        else:
            self._offer((None, None, True))
        finally:
            if isinstance(self._source, Generator):
                self._source.close()

    def _offer(self, what: tuple[Item | None, BaseException | None, bool]) -> bool:
        while not self._is_stopped.is_set():
            try:
                self._waiting.put(what, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
            return True
        return False
