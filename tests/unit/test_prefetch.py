"""One stage works while the next does: in order, bounded, and gone when the block ends."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nightshift.prefetch import N_WAITING, Prefetcher


def eventually(look: Callable[[], bool], seconds: float = 10.0) -> None:
    started = time.monotonic()
    while not look():
        assert time.monotonic() - started < seconds
        time.sleep(0.01)


def n_threads() -> int:
    return sum(thread.name.startswith("prefetch for") for thread in threading.enumerate())


def test_items_come_in_their_order_and_the_thread_ends() -> None:
    with Prefetcher(range(1000)) as items:
        assert list(items) == list(range(1000))
    assert n_threads() == 0


def test_source_is_only_a_few_items_ahead_when_its_reader_is_slow() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    with Prefetcher(source()) as items:
        for n_read, number in enumerate(itertools.islice(items, 20), 1):
            assert number == n_read - 1
            # Some wait, and one is held until there is room. A source that ran on would be far
            # beyond this number after a few items.
            eventually(lambda n_read=n_read: len(taken) == n_read + N_WAITING + 1)


def test_error_of_the_source_is_raised_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    with Prefetcher(source()) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="the second"):
            next(items)
    eventually(lambda: n_threads() == 0)


def test_sources_are_closed_and_threads_end_when_the_reader_fails() -> None:
    closed: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append("numbers")

    def doubled() -> Iterator[int]:
        try:
            with Prefetcher(numbers()) as items:
                for item in items:
                    yield 2 * item
        finally:
            closed.append("doubled")

    def read_and_fail() -> None:
        with Prefetcher(doubled()) as items:
            assert [next(items), next(items)] == [0, 2]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_and_fail()
    eventually(lambda: n_threads() == 0)
    assert sorted(closed) == ["doubled", "numbers"]


def test_stages_overlap() -> None:
    """Each stage works on an item of its own until all three do."""
    all_work = threading.Barrier(3, timeout=10)

    def stage(items: Iterator[int], waits_at: int) -> Iterator[int]:
        for item in items:
            if item == waits_at:
                all_work.wait()
            yield item

    with Prefetcher(stage(iter(range(10)), 2)) as first, Prefetcher(stage(first, 1)) as second:
        assert list(stage(second, 0)) == list(range(10))


def test_reader_in_another_thread_is_told_when_the_block_ends_while_it_waits() -> None:
    """An end without an error would look as if all items had come."""
    told: list[object] = []
    goes_on = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        goes_on.wait(10)
        yield 2

    def read(items: Iterator[int]) -> None:
        try:
            told.append(next(items))
            told.extend(items)
            told.append("end")
        except InterruptedError as error:
            told.append(type(error))

    def interrupted() -> None:
        with Prefetcher(source()) as items:
            threading.Thread(target=read, args=(items,)).start()
            eventually(lambda: told == [1])  # it asks for the second
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    eventually(lambda: told[-1:] == [InterruptedError])
    goes_on.set()
    eventually(lambda: n_threads() == 0)
