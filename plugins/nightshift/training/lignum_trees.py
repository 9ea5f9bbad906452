"""The accelerated engine: LightGBM's trees walked by lignum. The only module that knows lignum; it is optional.

Its interpreter needs no compiler. Where there is one, trees can be compiled and kept on this machine, by a digest of the model.
Source: docs/adr/0022-engines.md.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.training.booster import thread_count

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

CHILD_SECONDS = 300
COMPILE_SECONDS = 60
"""A night waits for it once a model: 7 s for 300 trees of 63 leaves."""
KEPT_LIBRARIES = 20


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
        library: Its compiled trees, of ``compile_in_child``; None interprets them.

    Raises:
        ImportError: lignum is not installed.
        RuntimeError: It refuses the model or the library.
    """

    def __init__(self, text: str, library: Path | None = None) -> None:
        import lignum

        with tempfile.TemporaryDirectory(prefix="nightshift-lignum-") as folder:
            path = Path(folder) / "model.txt"
            path.write_text(text, encoding="ascii")
            self._trees: Any = lignum.load(str(path), format="lightgbm", **({} if library is None else {"compiled": str(library)}))

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
        _run_child("answer", Path(name), text, matrix, CHILD_SECONDS)
        return np.asarray(np.load(Path(name) / "raw.npy"), dtype=np.float64)


def has_compiler() -> bool:
    """Return whether trees can be compiled on this machine."""
    return shutil.which("cc") is not None


def library_of(folder: Path, text: str) -> Path:
    """Return where this machine keeps a model's compiled trees: by its text, lignum's version and the kind of processor."""
    digest = sha256(f"{installed_version()} {platform.machine()} {text}".encode()).hexdigest()
    return folder / f"{digest}.so"


def kept_library(folder: Path, text: str) -> Path | None:
    """Return a model's compiled trees if they are there and every byte is what the compiler made; a damaged one would end the process."""
    library = library_of(folder, text)
    try:
        is_whole = sha256(library.read_bytes()).hexdigest() == library.with_suffix(".sha256").read_text(encoding="ascii")
    except OSError:
        return None
    return library if is_whole else None


def compile_in_child(text: str, matrix: Matrix, library: Path) -> None:
    """Compile a model's trees in a process that may die of it, and keep them if they give the interpreter's bits for a matrix.

    Raises:
        subprocess.SubprocessError: It died, took too long, the compiler failed, or a bit differs.
        OSError: The disk is full.
    """
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=library.parent) as name:
        _run_child("compile", Path(name), text, matrix, COMPILE_SECONDS)
        made = Path(name) / "trees.so"
        digest = made.with_suffix(".sha256")
        digest.write_text(sha256(made.read_bytes()).hexdigest(), encoding="ascii")
        digest.replace(library.with_suffix(".sha256"))
        made.replace(library)
    kept = sorted(library.parent.glob("*.so"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept[KEPT_LIBRARIES:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".sha256").unlink(missing_ok=True)


def _run_child(what: str, folder: Path, text: str, matrix: Matrix, seconds: float) -> None:
    import numpy as np

    (folder / "model.txt").write_text(text, encoding="ascii")
    np.save(folder / "matrix.npy", matrix)
    command = [sys.executable, "-m", "nightshift.training.lignum_trees", what, str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=seconds)  # noqa: S603


def _child(what: str, folder: Path) -> None:
    import numpy as np

    text = (folder / "model.txt").read_text(encoding="ascii")
    trees, matrix = LignumTrees(text), np.load(folder / "matrix.npy")
    np.save(folder / "raw.npy", trees.raw(matrix))
    if what == "compile":
        library = folder / "trees.so"
        trees._trees.compile(library=str(library), work_dir=str(folder))  # noqa: SLF001  (of our own class)
        if LignumTrees(text, library).raw(matrix).tobytes() != np.load(folder / "raw.npy").tobytes():
            sys.exit("compiled trees give other scores")


if __name__ == "__main__":
    _child(sys.argv[1], Path(sys.argv[2]))
