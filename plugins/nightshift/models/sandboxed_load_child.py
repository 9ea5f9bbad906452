"""Load a model and let it answer, as a script of the standard library that may die of it.

LightGBM's C interface is called without its Python package: 0.1 s instead of the 1.3 s that its
imports take, and a process without threads, connections or credentials. Source: LightGBM's
documentation of its C API.

Reads one line of JSON (``library``, ``n_rows``, ``n_columns``, ``n_scores``, ``memory_bytes``,
``cpu_seconds``, ``text_bytes``), the text model and the matrix as doubles, row by row. Writes raw
scores, then contributions, as doubles.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys

REFUSED = 3
"""Exit code when LightGBM returns an error instead of ending the process."""
# Constants of LightGBM's C API.
_DOUBLES, _ROW_MAJOR, _RAW, _CONTRIBUTIONS = 1, 1, 1, 3


def main() -> int:
    """Return the exit code."""
    request = json.loads(sys.stdin.buffer.readline())
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: request["cpu_seconds"],
        resource.RLIMIT_AS: request["memory_bytes"],
    }
    for limit, maximum in limits.items():
        resource.setrlimit(limit, (maximum, maximum))
    text = sys.stdin.buffer.read(request["text_bytes"])
    matrix = sys.stdin.buffer.read()
    # LightGBM prints its warnings to standard output, where only the answer may go.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    library = ctypes.CDLL(request["library"])
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    n_rows, n_columns = shape = (request["n_rows"], request["n_columns"])
    try:
        booster = _load(library, text)
        n_scores = n_rows * request["n_scores"]
        raw = _predict(library, booster, matrix, shape, _RAW, n_scores)
        answer.write(raw)
        n_contributions = n_scores * (n_columns + 1)
        added = _predict(library, booster, matrix, shape, _CONTRIBUTIONS, n_contributions)
        answer.write(added)
        answer.close()
    except ValueError as error:
        sys.stderr.write(str(error))
        return REFUSED
    return 0


def _load(library: ctypes.CDLL, text: bytes) -> ctypes.c_void_p:
    booster = ctypes.c_void_p()
    n_iterations = ctypes.c_int()
    code = library.LGBM_BoosterLoadModelFromString(
        text,
        ctypes.byref(n_iterations),
        ctypes.byref(booster),
    )
    _check(library, code)
    # The Python package reads the parameters at every load, so the child must survive that too.
    n_bytes = ctypes.c_int64()
    buffer = ctypes.create_string_buffer(1 << 20)
    code = library.LGBM_BoosterGetLoadedParam(
        booster,
        ctypes.c_int64(len(buffer)),
        ctypes.byref(n_bytes),
        buffer,
    )
    _check(library, code)
    return booster


def _predict(
    library: ctypes.CDLL,
    booster: ctypes.c_void_p,
    matrix: bytes,
    shape: tuple[int, int],
    prediction: int,
    n_values: int,
) -> ctypes.Array[ctypes.c_double]:
    """Return the values of one prediction, row by row."""
    values = (ctypes.c_double * n_values)()
    n_written = ctypes.c_int64()
    options = (_DOUBLES, *shape, _ROW_MAJOR, prediction, 0, -1)
    code = library.LGBM_BoosterPredictForMat(
        booster,
        matrix,
        *map(ctypes.c_int, options),
        b"num_threads=1",
        ctypes.byref(n_written),
        values,
    )
    _check(library, code)
    if n_written.value != n_values:
        raise ValueError(f"{n_written.value} values instead of {n_values}")
    return values


def _check(library: ctypes.CDLL, code: int) -> None:
    if code:
        raise ValueError(library.LGBM_GetLastError().decode(errors="replace"))


if __name__ == "__main__":
    os._exit(main())
