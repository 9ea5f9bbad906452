"""The largest memory that this process has held, as the kernel counts it."""

from __future__ import annotations

import resource

_BYTES_PER_UNIT = 1024
"""Linux counts ``ru_maxrss`` in KiB. Source: getrusage(2)."""


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process or of its largest ended child, in bytes."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    # dbt and the sandbox of a model run as children: theirs may be the larger peak.
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    units = max(own.ru_maxrss, children.ru_maxrss)
    return units * _BYTES_PER_UNIT
