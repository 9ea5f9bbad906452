"""What a mergeable summary knows of every column, and its stored form.

Source: docs/adr/0026-profiles.md.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nightshift.quality.sketches.kmv_sketch import KMVSketch

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass
class ColumnSketch:
    """What a sketch knows of every column.

    Attributes:
        n_rows: All rows.
        n_missing: Rows without a value.
        distinct: How many distinct values there are.
    """

    n_rows: int = 0
    n_missing: int = 0
    distinct: KMVSketch = field(default_factory=KMVSketch)

    @property
    def n_known(self) -> int:
        """Return the number of values."""
        return self.n_rows - self.n_missing

    @property
    def n_distinct(self) -> int:
        """Return the approximate number of distinct values."""
        # An estimate may exceed the number of values.
        return min(self.distinct.estimate, self.n_known)

    def merge_counts(self, other: ColumnSketch) -> None:
        """Add what another summary of the same column counted."""
        self.n_rows += other.n_rows
        self.n_missing += other.n_missing
        self.distinct.add(other.distinct.smallest)


def pack(head: dict[str, Any], *arrays: npt.NDArray[Any]) -> bytes:
    """Return the stored form, compressed.

    Args:
        head: Numbers and strings, kept as JSON behind its length in four bytes.
        arrays: Kept as their bytes, in order; the head says how long they are.
    """
    text = json.dumps(head, ensure_ascii=False).encode()
    length = len(text).to_bytes(4, "little")
    content = [length, text]
    content += [array.tobytes() for array in arrays]
    return zlib.compress(
        b"".join(content),
        1,
    )


def unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the head of a stored form, and the bytes of its arrays."""
    content = zlib.decompress(data)
    length = int.from_bytes(content[:4], "little")
    end = 4 + length
    head = json.loads(content[4:end])
    return head, content[end:]
