"""Blocks of consecutive text rows, which the readers of delivered files yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.lake.object_stream import ObjectStream

    Source = bytes | Path | ObjectStream
    """A file's bytes, the file, or a stream that is still being received, to be read once."""

BLOCK_ROWS = 65_536
"""About the rows of a block: the work per block costs as much for a few rows."""
BLOCK_TEXT_BYTES = 32 * 1024**2
"""Rows of long values come in smaller blocks: a block's text is not much larger than this."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    Attributes:
        strings: shape (n, n_columns), text as delivered; null where the file is empty.
        row_numbers: shape (n,), position of each row in the file, 1 for the first after the
            header.
    """

    strings: pa.Table
    row_numbers: npt.NDArray[np.int64]
