"""Give freed memory back to the system: files of all kinds must not make a process grow.

glibc takes blocks of up to 32 MiB from its heaps once a block of that size was freed, and a heap
shrinks at its end only: a small block that lives on there keeps all freed memory before it. Each
thread may have a heap of its own. So the arrays of large files made a process grow by 20 to 130 MiB
a file, whatever was freed. Source: mallopt(3), docs/adr/0058-what-the-warehouse-alters.md.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache

logger = logging.getLogger(__name__)

# Parameters of mallopt. Source: malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 1 << 20
"""Blocks of this size are mapped alone, and unmapped when they are freed. Blocks of 65,536 rows
have columns of half of it, so streams stay as fast as they were.
"""
_N_HEAPS = 2


@cache
def bound_heap() -> bool:
    """Let large blocks go back to the system as soon as they are freed; once per process.

    Returns:
        Whether the process has glibc; with another C library nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # A fixed threshold: by itself it grows to the largest block that was ever freed.
    settings = {
        _MMAP_THRESHOLD: _LARGE_BYTES,
        _TRIM_THRESHOLD: _LARGE_BYTES,
        _ARENA_MAX: _N_HEAPS,
    }
    done = [mallopt(parameter, value) == 1 for parameter, value in settings.items()]
    if not all(done):
        logger.info("The C library keeps freed memory as it likes.")
    return all(done)


def release_unused() -> None:
    """Give back what Arrow holds in reserve: some 80 MiB after a file of 400,000 rows."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
