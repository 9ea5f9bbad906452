"""What readers of delivered files yield: consecutive rows as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    Attributes:
        texts: shape (n, n_columns), text as delivered; null where the file is empty.
        row_numbers: shape (n,), position of each row in the file, 1 for the first behind the
            header.
    """

    texts: pa.Table
    row_numbers: npt.NDArray[np.int64]
