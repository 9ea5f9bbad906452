"""Recognise a home: a folder that nightshift created and may therefore fill and delete."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nightshift.errors import ServiceError

MARKER = ".nightshift-home"
MARKER_TEXT = (
    "nightshift keeps its local state here; `nightshift down --delete-data` deletes this folder.\n"
)
OWN_NAMES = frozenset(
    {
        ".replay_clock.partial", "admin-env", "airflow", "binned_rows", "checkpoints", "dbt",
        "drops", "env", "kernels", "logs", "metrics-token", "notices", "policy_backtest",
        "ports.json", "ports.lock", "ports.partial", "postgres", "private-root", "programs",
        "replay_clock", "run", "s3", "secrets",
    }
)  # fmt: skip
"""What stages and servers write into a home; a worker's home has some of it before any `up`."""


def is_home(folder: Path) -> bool:
    """Return whether a folder carries our marker: a plain file of our own user."""
    try:
        status = (folder / MARKER).lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def claim_home(home: Path) -> None:
    """Mark a folder as ours, if it is new, empty, or holds nothing but what nightshift writes.

    Args:
        home: An existing folder.

    Raises:
        ServiceError: It holds files of others.
    """
    if is_home(home):
        return
    foreign = sorted(path.name for path in home.iterdir() if path.name not in OWN_NAMES)
    if foreign:
        raise _foreign(home, f"{len(foreign)} other files or folders in it")
    if home.stat().st_uid != os.geteuid():
        raise _foreign(home, "another user's folder")
    # O_NOFOLLOW: a prepared link must not make us write elsewhere.
    marker = os.open(home / MARKER, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(marker, "w") as file:
        file.write(MARKER_TEXT)


def check_deletable(home: Path) -> None:
    """Refuse to delete a folder that is not a home of ours.

    Args:
        home: The folder as the person named it, links not followed.

    Raises:
        ServiceError: It is a link, a mount point, another user's, or has no marker of ours.
    """
    if home.is_symlink():
        raise _foreign(home, "a symbolic link")
    if not is_home(home):
        raise _foreign(home, f"no file {MARKER} of ours in it")
    if os.path.ismount(home) or home.stat().st_uid != os.geteuid():
        raise _foreign(home, "a mount point or another user's folder")


def _foreign(home: Path, got: str) -> ServiceError:
    return ServiceError(
        f"{home} is not a home of nightshift; nothing in it was changed.",
        expected=f"an empty or new folder, or one with our file {MARKER}",
        got=got,
        todo="Point NIGHTSHIFT_HOME at a folder of its own.",
        code="NS-SERVICE-013",
    )
