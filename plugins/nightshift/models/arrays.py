"""Names of array types for type hints.

They name the dtype; each docstring gives the shape. Modules that start without NumPy import them
for type checking only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
"""One double per row or name."""
Matrix = npt.NDArray[np.float64]
"""Doubles in rows and columns."""
Mask = npt.NDArray[np.bool_]
"""Which rows, or which values, are meant."""
Integers = npt.NDArray[np.int64]
"""Positions, counts or days: a whole number per row or name."""
Words = npt.NDArray[np.uint64]
"""Bit masks of 64 bits."""
Arrays = dict[str, npt.NDArray[Any]]
"""Arrays by the name of the kernel's argument that they are."""
