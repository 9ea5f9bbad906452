"""Load a model and let it answer, in a process of its own that may die of it. Run as a script, with the standard library only.

LightGBM's C interface is called without its Python package: 0.1 s instead of the 1.3 s that its
imports take, and a process without threads, connections or credentials. Source: LightGBM's
documentation of its C API.

Reads one line of JSON (``library``, ``n_rows``, ``n_columns``, ``memory_bytes``, ``cpu_seconds``,
``text_bytes``), the text model and the matrix as doubles, row by row. Writes raw scores, then
contributions, as doubles.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys

REFUSED = 3
"""Exit code when LightGBM says no in its orderly way."""
_DOUBLES, _ROW_MAJOR, _RAW, _CONTRIBUTIONS = 1, 1, 1, 3


def main() -> int:
    """Return the exit code."""
    order = json.loads(sys.stdin.buffer.readline())
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: order["cpu_seconds"],
        resource.RLIMIT_AS: order["memory_bytes"],
    }
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))
    text = sys.stdin.buffer.read(order["text_bytes"])
    matrix = sys.stdin.buffer.read()
    # LightGBM prints its warnings where the answer must go.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    library = ctypes.CDLL(order["library"])
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    try:
        booster = _load(library, text)
        for kind, width in ((_RAW, 1), (_CONTRIBUTIONS, order["n_columns"] + 1)):
            answer.write(
                _predict(
                    library, booster, matrix, (order["n_rows"], order["n_columns"]), kind, width
                )
            )
        answer.close()
    except ValueError as error:
        sys.stderr.write(str(error))
        return REFUSED
    return 0


def _load(library: ctypes.CDLL, text: bytes) -> ctypes.c_void_p:
    booster, n_iterations = ctypes.c_void_p(), ctypes.c_int()
    _checked(
        library,
        library.LGBM_BoosterLoadModelFromString(
            text, ctypes.byref(n_iterations), ctypes.byref(booster)
        ),
    )
    n_bytes, room = ctypes.c_int64(), ctypes.create_string_buffer(1 << 20)
    # The Python package asks for them at every load.
    _checked(
        library,
        library.LGBM_BoosterGetLoadedParam(
            booster, ctypes.c_int64(len(room)), ctypes.byref(n_bytes), room
        ),
    )
    return booster


def _predict(
    library: ctypes.CDLL,
    booster: ctypes.c_void_p,
    matrix: bytes,
    shape: tuple[int, int],
    kind: int,
    width: int,
) -> ctypes.Array[ctypes.c_double]:
    n_rows, n_columns = shape
    n_values, values = ctypes.c_int64(), (ctypes.c_double * (n_rows * width))()
    how = (
        *map(ctypes.c_int, (_DOUBLES, n_rows, n_columns, _ROW_MAJOR, kind, 0, -1)),
        b"num_threads=1",
    )
    _checked(
        library,
        library.LGBM_BoosterPredictForMat(booster, matrix, *how, ctypes.byref(n_values), values),
    )
    if n_values.value != len(values):
        raise ValueError(f"{n_values.value} values instead of {len(values)}")
    return values


def _checked(library: ctypes.CDLL, code: int) -> None:
    if code:
        raise ValueError(library.LGBM_GetLastError().decode(errors="replace"))


if __name__ == "__main__":
    os._exit(main())
