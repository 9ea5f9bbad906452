"""Keep training rows on disk as LightGBM has binned them, by the hash of their content.

Another fit of the same rows then skips the binning. A file is a copy of what can be made again: one
that cannot be used is deleted, and the rows are binned. Source: docs/adr/0029-training-at-size.md.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import numpy.typing as npt

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024**3
"""Size of the files that are kept, those that were used last.

A training has ten sets of rows with the default numbers, of a byte a row and column: all are kept
up to ten million rows of 40 columns.
"""
_MAXIMUM_SAVE_SECONDS = 3600
"""A draft that is older was left by a killed process."""


class BinnedRows:
    """One file of a folder.

    Args:
        folder: Folder of all files; it is created when a file is kept.
        columns: The rows to bin, shape (n, k), in order.
        label: shape (n,).
        facts: Everything else that decides about bins: parameters, names, LightGBM's version; as
            JSON.
    """

    def __init__(
        self,
        folder: Path,
        columns: pa.Table | npt.NDArray[Any],
        label: npt.NDArray[Any],
        facts: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        document = json.dumps(facts, sort_keys=True)
        digest = sha256(document.encode())
        arrays = [columns]
        if isinstance(columns, pa.Table):
            arrays = columns.columns
        for array in (*arrays, label):
            values = np.ascontiguousarray(array)
            # Types and shapes are hashed too: equal bytes may stand for other columns.
            form = f"{values.dtype} {values.shape}"
            digest.update(form.encode())
            digest.update(values.data)
        # Content, not a training set's name: a backtest's folds bin the same rows too.
        self._key = digest.hexdigest()

    def find(self) -> Path | None:
        """Return the file if it exists and its content has the digest of its name."""
        for path in self._folder.glob(f"{self._key}-*.bin"):
            # Another fit may delete the file meanwhile: then it does not exist.
            with suppress(OSError):
                # A damaged file is found here, before LightGBM reads it.
                if path.stem == f"{self._key}-{digest_of(path)}":
                    # The files that were used last are kept.
                    path.touch()
                    return path
                self.drop(path)
        return None

    def drop(self, path: Path) -> None:
        """Delete a file that cannot be used."""
        logger.warning("Binned rows in %s cannot be used; they are binned again.", path.name)
        # Another fit may have deleted it.
        with suppress(OSError):
            path.unlink()

    def keep(self, save: Callable[[str], object]) -> None:
        """Keep the file that ``save`` writes, and delete the oldest ones; errors are only logged.

        Args:
            save: Writes to the path that it is given; the file does not exist.
        """
        draft = self._folder / f".{self._key}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # A killed process of the same number may have left one.
            draft.unlink(missing_ok=True)
            save(str(draft))
            name = f"{self._key}-{digest_of(draft)}.bin"
            # A file appears complete under its final name, or not at all.
            draft.replace(self._folder / name)
            self._delete_old_files()
        # A full disk, or another process: the fit goes on, since its rows are in memory.
        except Exception as error:  # noqa: BLE001
            logger.warning(
                "Binned rows are not kept: %s: %s",
                type(error).__name__,
                error,
            )
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _delete_old_files(self) -> None:
        """Delete the files that were used longest ago, and drafts of killed processes."""
        files = sorted(self._folder.glob("[!.]*.bin"), key=_used_at, reverse=True)
        n_bytes = 0
        old_files = []
        for path in files:
            n_bytes += path.stat().st_size
            if n_bytes > MAX_BYTES:
                old_files.append(path)
        # Drafts of a running process are younger and stay.
        oldest = time.time() - _MAXIMUM_SAVE_SECONDS
        drafts = self._folder.glob(".*")
        left_drafts = [draft for draft in drafts if _used_at(draft) < oldest]
        for path in (*old_files, *left_drafts):
            path.unlink(missing_ok=True)


def _used_at(path: Path) -> float:
    """Return when a file was written or used last."""
    return path.stat().st_mtime


def digest_of(path: Path) -> str:
    """Return the digest that a file's name must have."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:32]
