"""An accelerated engine for large trees: LightGBM's, walked by lignum. The only module that knows lignum; it is optional.

Source: docs/adr/0022-engines.md.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.kernels import thread_count

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

CHILD_SECONDS = 300


def installed_version() -> str | None:
    """Return lignum's version, None where it is not installed."""
    try:
        return version("pylignum")
    except PackageNotFoundError:
        return None


class LignumTrees:
    """A text model in lignum.

    Args:
        text: A text model that ``check_model_text`` has taken.

    Raises:
        ImportError: lignum is not installed.
        RuntimeError: It refuses the model.
    """

    def __init__(self, text: str) -> None:
        import lignum

        with tempfile.TemporaryDirectory(prefix="nightshift-lignum-") as folder:
            path = Path(folder) / "model.txt"
            path.write_text(text, encoding="ascii")
            self._trees: Any = lignum.load(str(path), format="lightgbm")

    def raw(self, matrix: Matrix) -> Vector:
        """Return raw scores, shape (n,), of a matrix without infinite numbers: for those lignum may answer otherwise."""
        import numpy as np

        return np.asarray(self._trees.predict(matrix, raw_score=True, n_jobs=thread_count()), dtype=np.float64)


def raw_in_child(text: str, matrix: Matrix) -> Vector:
    """Return raw scores, shape (n,), computed in a process that may die of it.

    Raises:
        subprocess.SubprocessError: It died, or took too long.
        OSError: The folder for temporary files is full.
    """
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="nightshift-lignum-") as name:
        folder = Path(name)
        (folder / "model.txt").write_text(text, encoding="ascii")
        np.save(folder / "matrix.npy", matrix)
        command = [sys.executable, "-m", "nightshift.training.lignum_trees", name]
        subprocess.run(command, check=True, capture_output=True, timeout=CHILD_SECONDS)  # noqa: S603
        return np.asarray(np.load(folder / "raw.npy"), dtype=np.float64)


def _child(folder: Path) -> None:
    import numpy as np

    text = (folder / "model.txt").read_text(encoding="ascii")
    np.save(folder / "raw.npy", LignumTrees(text).raw(np.load(folder / "matrix.npy")))


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
