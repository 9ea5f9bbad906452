"""Run what must not be waited for: a call that has a time limit, whatever it does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_within(seconds: float, name: str, call: Callable[[], T]) -> T:
    """Return what a call returns, or raise what it raises, within a time limit.

    A call that takes longer is abandoned: its thread goes on until it ends, or with the process. So
    it must not share a connection with its caller.

    Args:
        seconds: The limit.
        name: What is done, for the message.
        call: The call.

    Raises:
        TimeoutError: It takes longer.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        # The caller decides what an error means, also that of an interpreter that ends.
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    # A daemon: a call that hangs must not keep the process alive.
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(max(seconds, 0.0))
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"{name} took longer than {seconds:.0f} s")
    return results[0]
