"""Prefetching: a thread takes items from a source in advance, so that two stages work at once."""

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
"""Items that may wait between two stages: enough to even out their speeds, with little memory."""
_POLL_SECONDS = 0.1


class Prefetcher(Generic[Item]):
    """Iterates over items that a thread takes from their source in advance; a context manager.

    An error of the source is raised here, at its position in the order. When the block ends, the
    thread takes no further item, drops the current one, and closes a source that is a generator. A
    thread that still waits for an item gets an ``InterruptedError``: an ordinary end would look as
    if all items had come.

    Args:
        source: Iterated in the thread.
        n_waiting: Maximum number of items that are taken in advance.
    """

    def __init__(self, source: Iterable[Item], n_waiting: int = N_WAITING) -> None:
        self._source = source
        # An item, an error, or neither at the end; in this order.
        self._queue: queue.Queue[tuple[Item | None, BaseException | None, bool]] = queue.Queue(
            n_waiting
        )
        self._is_stopped = threading.Event()
        # A daemon: a source that never answers must not keep the process alive.
        name = f"prefetch for {threading.current_thread().name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Iterator[Item]:
        return self.start()

    def start(self) -> Iterator[Item]:
        """Begin without a block; ``stop`` ends it."""
        self._thread.start()
        return self._items()

    def stop(self) -> None:
        """End it, without waiting for the thread."""
        self._is_stopped.set()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        # After an error, the thread may wait for a source that never answers.
        if error_type is None:
            self._thread.join()

    def _items(self) -> Iterator[Item]:
        while True:
            try:
                item, error, is_last = self._queue.get(timeout=_POLL_SECONDS)
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
        except BaseException as error:  # noqa: BLE001  (raised again by the other thread)
            self._offer((None, error, False))
        else:
            self._offer((None, None, True))
        finally:
            # In the thread that ran it: its connections and files are closed at once.
            if isinstance(self._source, Generator):
                self._source.close()

    def _offer(self, entry: tuple[Item | None, BaseException | None, bool]) -> bool:
        """Put an entry into the queue; return False if the prefetcher was stopped."""
        while not self._is_stopped.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
