"""Compile loops over arrays to machine code: the only module that knows numba."""

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

# Rows of one thread's task; a multiple of the kernels' lanes.
TASK_ROWS = 2_048


def thread_count() -> int:
    """Return the number of threads this process may use.

    It is ``OMP_NUM_THREADS``, else the processors that the process may run on.
    """
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


@cache
def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as machine code.

    It is compiled at the first call on a machine, then read from ``<home>/kernels``.
    ``NUMBA_CACHE_DIR`` names another folder. Where none can be written, each process compiles for
    itself.

    Args:
        function: Loops over arrays and numbers, of a module's top level; it runs without the
            interpreter's lock.
    """
    import numba

    if not os.environ.get("NUMBA_CACHE_DIR"):
        numba.config.CACHE_DIR = str(default_home() / "kernels")
    kernel: Callable[..., Any]
    try:
        kernel = numba.njit(function, nogil=True, cache=True)
        _seal(kernel)
    except (RuntimeError, OSError) as error:
        logger.warning("The machine code of %s cannot be cached: %s", function.__name__, error)
        kernel = numba.njit(function, nogil=True, cache=False)
    return kernel


def _seal(kernel: Any) -> None:  # noqa: ANN401  (numba's dispatcher)
    """Store a digest with a kernel's cached machine code.

    Numba would run whatever is in the file, and a flipped bit ends the process. Only reading and
    writing the files is replaced; numba still decides which one fits this function and processor.
    """
    from numba.core.caching import IndexDataCacheFile

    class SealedCacheFile(IndexDataCacheFile):  # type: ignore[misc]  # numba has no types
        """Numba's index and data file, each with its digest; what cannot be used is made again."""

        def _load_index(self) -> dict[Any, str]:
            current = (self._version, self._source_stamp)
            version, stamp, overloads = _unpickled(Path(self._index_path)) or (None, None, {})
            return dict(overloads) if (version, stamp) == current else {}

        def _save_index(self, overloads: dict[Any, str]) -> None:
            index = self._dump((self._version, self._source_stamp, overloads))
            _write(Path(self._index_path), index)

        def _load_data(self, name: str) -> Any:  # noqa: ANN401  (what numba has cached)
            content = _unpickled(Path(self._data_path(name)))
            if content is None:
                raise FileNotFoundError(name)  # numba then compiles
            return content

        def _save_data(self, name: str, data: object) -> None:
            _write(Path(self._data_path(name)), self._dump(data))

    # ruff: noqa: SLF001  (numba offers no other way)
    own_cache = kernel._cache
    files = own_cache._cache_file
    base = files._index_name.removesuffix(".nbi")
    own_cache._cache_file = SealedCacheFile(files._cache_path, base, files._source_stamp)


def _unpickled(path: Path) -> Any:  # noqa: ANN401  (what numba has cached)
    """Return the object in a sealed file; None for a file that is of no use."""
    content = sealed_file.read(path)
    if content is None:
        return None
    try:
        # Our own file: its digest is right.
        return pickle.loads(content)  # noqa: S301
    except Exception as error:  # noqa: BLE001
        # Another release of numba wrote it, whose classes this one may not have.
        logger.warning("%s cannot be read (%s); its content is made again.", path, error)
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a sealed file; without it each process compiles for itself."""
    try:
        sealed_file.write(path, content)
    except OSError as error:
        # A full disk must not end a scoring: the machine code is in memory.
        logger.warning("%s cannot be written: %s", path, error.strerror)


def c_function(library: Path | None, name: str, result: str, *arguments: str) -> Callable[..., Any]:
    """Return a C function that compiled loops may call.

    It gets a symbol of ours: several libraries of a process may have one of the same name.

    Args:
        library: Path of the library; None for the C library.
        name: The function's symbol.
        result: Type of the result: ``int32``, ``uintp`` (a pointer, or a size) or ``void``.
        arguments: Type of each argument, likewise.

    Raises:
        OSError: The library cannot be loaded.
        AttributeError: It has no such function.
    """
    import ctypes

    from llvmlite import binding
    from numba.core import types

    function = getattr(ctypes.CDLL(None if library is None else str(library)), name)
    binding.add_symbol(f"nightshift_{name}", ctypes.cast(function, ctypes.c_void_p).value)
    argument_types = [getattr(types, argument) for argument in arguments]
    signature = getattr(types, result)(*argument_types)
    return types.ExternalFunction(f"nightshift_{name}", signature)


def run_in_threads(work: Callable[[slice], None], n_rows: int) -> None:
    """Run ``work`` on all rows, ``TASK_ROWS`` at a time, in as many threads as the process may use.

    The result of a row must not depend on other rows.
    """
    parts = [slice(start, start + TASK_ROWS) for start in range(0, n_rows, TASK_ROWS)]
    n_threads = max(1, min(len(parts), thread_count()))
    with ThreadPoolExecutor(n_threads) as threads:
        # The results are read so that an error of a part is raised here.
        for _ in threads.map(work, parts):
            pass
