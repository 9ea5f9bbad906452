"""Loops over arrays as machine code: the only module that knows numba."""

from __future__ import annotations

import logging
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift import sealed_file
from nightshift.settings import default_home

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

TASK_ROWS = 2_048
"""Rows that a thread takes at once; a multiple of the kernels' lanes."""


def thread_count() -> int:
    """Return how many threads this process may use: ``OMP_NUM_THREADS``, else the processors it may run on."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


@cache
def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as machine code: compiled at the first call on a machine, then read from ``<home>/kernels``.

    ``NUMBA_CACHE_DIR`` names another folder. Where none can be written, each process compiles for
    itself.

    Args:
        function: Loops over arrays and numbers, of a module's top level; it runs without the
            interpreter's lock.
    """
    import numba

    if not os.environ.get("NUMBA_CACHE_DIR"):
        numba.config.CACHE_DIR = str(default_home() / "kernels")
    try:
        return _compile(numba, function, is_kept=True)
    except (RuntimeError, OSError) as error:
        logger.warning("The machine code of %s cannot be kept: %s", function.__name__, error)
        return _compile(numba, function, is_kept=False)


def _compile(numba: Any, function: Callable[..., Any], *, is_kept: bool) -> Callable[..., Any]:  # noqa: ANN401  (a module without types)
    kernel: Callable[..., Any] = numba.njit(function, nogil=True, cache=is_kept)
    if is_kept:
        _seal(kernel)
    return kernel


def _seal(kernel: Any) -> None:  # noqa: ANN401  (numba's dispatcher)
    """Let a kernel's kept machine code carry its digest: numba would run whatever is in the file, and a turned bit ends the process.

    Only where the files are read and written is replaced; numba still decides which one fits this
    function and this processor.
    """
    from numba.core.caching import IndexDataCacheFile

    class SealedCacheFile(IndexDataCacheFile):  # type: ignore[misc]  # numba has no types
        """Numba's index and data file, each with its digest; a damaged one is compiled again."""

        def _load_index(self) -> dict[Any, str]:
            content = sealed_file.read(Path(self._index_path))
            if content is None:
                return {}
            version, stamp, overloads = pickle.loads(content)  # noqa: S301  (our own file, its digest is right)
            found: dict[Any, str] = (
                overloads if (version, stamp) == (self._version, self._source_stamp) else {}
            )
            return found

        def _save_index(self, overloads: dict[Any, str]) -> None:
            sealed_file.write(
                Path(self._index_path), self._dump((self._version, self._source_stamp, overloads))
            )

        def _load_data(self, name: str) -> Any:  # noqa: ANN401  (what numba has kept)
            content = sealed_file.read(Path(self._data_path(name)))
            if content is None:
                raise FileNotFoundError(name)  # numba then compiles
            return pickle.loads(content)  # noqa: S301  (as above)

        def _save_data(self, name: str, data: object) -> None:
            sealed_file.write(Path(self._data_path(name)), self._dump(data))

    kept = kernel._cache  # noqa: SLF001  (numba offers no other way)
    files = kept._cache_file  # noqa: SLF001
    base = files._index_name.removesuffix(".nbi")  # noqa: SLF001
    kept._cache_file = SealedCacheFile(files._cache_path, base, files._source_stamp)  # noqa: SLF001


def c_function(library: Path | None, name: str, result: str, *arguments: str) -> Any:  # noqa: ANN401  (a type of numba)
    """Return a C function that compiled loops may call.

    Loops know it by a symbol of ours: several libraries of a process may have one of the same name.

    Args:
        library: Where it is; None for the C library.
        name: Its symbol.
        result: ``int32``, ``uintp`` (a pointer, or a size) or ``void``.
        arguments: The same for each.

    Raises:
        OSError: The library cannot be loaded.
        AttributeError: It has no such function.
    """
    import ctypes

    from llvmlite import binding
    from numba.core import types

    function = getattr(ctypes.CDLL(None if library is None else str(library)), name)
    binding.add_symbol(f"nightshift_{name}", ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(
        f"nightshift_{name}",
        getattr(types, result)(*(getattr(types, argument) for argument in arguments)),
    )


def run_in_threads(work: Callable[[slice], None], n_rows: int) -> None:
    """Do all rows, some at a time, in as many threads as the process may use; what a row gives must not depend on the others."""
    parts = [slice(start, start + TASK_ROWS) for start in range(0, n_rows, TASK_ROWS)]
    with ThreadPoolExecutor(max(1, min(len(parts), thread_count()))) as threads:
        for _ in threads.map(work, parts):
            pass
