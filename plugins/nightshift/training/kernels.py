"""Loops over arrays as machine code: the only module that knows numba."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

from nightshift.settings import default_home
from nightshift.training.booster import thread_count

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

TASK_ROWS = 2_048
"""Rows that a thread takes at once; a multiple of the kernels' lanes."""


@cache
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function as machine code: compiled at the first call on a machine, then read from ``<home>/kernels``.

    ``NUMBA_CACHE_DIR`` names another folder. Where none can be written, each process compiles for itself.

    Args:
        function: Loops over arrays and numbers, of a module's top level; it runs without the interpreter's lock.
    """
    import numba

    if not os.environ.get("NUMBA_CACHE_DIR"):
        numba.config.CACHE_DIR = str(default_home() / "kernels")
    try:
        return _compile(numba, function, is_kept=True)
    except (RuntimeError, OSError) as error:
        logger.warning("The machine code of %s cannot be kept: %s", function.__name__, error)
        return _compile(numba, function, is_kept=False)


def _compile(numba: Any, function: Callable[..., None], *, is_kept: bool) -> Callable[..., None]:  # noqa: ANN401  (a module without types)
    kernel: Callable[..., None] = numba.njit(function, nogil=True, cache=is_kept)
    return kernel


def in_threads(work: Callable[[slice], None], n_rows: int) -> None:
    """Do all rows, some at a time, in as many threads as the process may use; what a row gives must not depend on the others."""
    parts = [slice(start, start + TASK_ROWS) for start in range(0, n_rows, TASK_ROWS)]
    with ThreadPoolExecutor(max(1, min(len(parts), thread_count()))) as threads:
        for _ in threads.map(work, parts):
            pass
