"""Decide where a server keeps its files and as which user it runs.

An ordinary user's servers run as that user under the home. PostgreSQL refuses root, so root's
servers run as ``nobody``, in a folder that ``nobody`` can reach: the home if every parent can be
traversed, else one under ``/var/lib/nightshift``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nightshift_local.home import claim_home

UNPRIVILEGED_USER = "nobody"
SYSTEM_STATE_DIR = Path("/var/lib/nightshift")
ROOT_PREFIX = "home-"
TRAVERSABLE = 0o711
"""Set by chmod, since a strict umask would take it away from mkdir: others may pass through, but
not list.
"""


@dataclass(frozen=True)
class Placement:
    """Where servers keep their files, and as whom they run.

    Attributes:
        root: Folder in which each server has its own folder.
        uid: The user to become; None: stay who we are.
        gid: The group to become; None: stay who we are.
    """

    root: Path
    uid: int | None = None
    gid: int | None = None

    def own_dir(self, name: str) -> Path:
        """Create ``root/name`` with mode 0700, owned by the servers' user, and return it."""
        path = self.root / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.give(path)
        return path

    def give(self, path: Path) -> None:
        """Make the servers' user the owner of one file or folder."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reachable(self, path: Path) -> Path:
        """Return a path, or a copy of it (hard links) that the servers' user can read."""
        if self.uid is None or _can_traverse(path):
            return path
        # An updated program gets a copy of its own; a running server keeps the old one.
        stamp = f"{path.stat().st_mtime_ns:x}-{path.stat().st_ino:x}"
        copy = self.root / "programs" / f"{path.name}-{stamp}"
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            copy.parent.chmod(TRAVERSABLE)
            _copy(path, copy)
        return copy


def prepare_home(home: Path) -> Path:
    """Create the home folder, closed to other users, and return its absolute path.

    Raises:
        ServiceError: The folder exists and is not a home of ours; it is left as it is.
    """
    home = home.expanduser().resolve()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    claim_home(home)
    home.chmod(TRAVERSABLE if os.geteuid() == 0 else 0o700)
    for name in ("run", "logs", "secrets"):
        (home / name).mkdir(mode=0o700, exist_ok=True)
    return home


def place_servers(home: Path) -> Placement:
    """Return where the servers of a prepared home keep their files and as whom they run."""
    if os.geteuid() != 0:
        return Placement(home)
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam(UNPRIVILEGED_USER)
    root = home if _can_traverse(home) else _private_root(home)
    return Placement(root, user.pw_uid, user.pw_gid)


def remove_placed_files(home: Path) -> None:
    """Delete what the stopped servers of a home keep outside of it."""
    placement = place_servers(home)
    if placement.root != home:
        shutil.rmtree(placement.root, ignore_errors=True)
        (home / "private-root").unlink(missing_ok=True)


def _private_root(home: Path) -> Path:
    """Return the folder outside of an unreachable home; its random name is kept in the home."""
    pointer = home / "private-root"
    if (root := _pointed_root(pointer)) is not None:
        return root
    SYSTEM_STATE_DIR.mkdir(parents=True, exist_ok=True)
    SYSTEM_STATE_DIR.chmod(TRAVERSABLE)
    # The name cannot be guessed: nobody can prepare files under it.
    root = Path(tempfile.mkdtemp(prefix=ROOT_PREFIX, dir=SYSTEM_STATE_DIR))
    root.chmod(TRAVERSABLE)
    pointer.write_text(str(root))
    return root


def _pointed_root(pointer: Path) -> Path | None:
    """Return the folder that a home's pointer names; None unless nightshift created it."""
    if not pointer.is_file():
        return None
    root = Path(pointer.read_text().strip())
    # The folder is deleted with the home: a pointer to another place must not be followed.
    if root.parent != SYSTEM_STATE_DIR or not root.name.startswith(ROOT_PREFIX):
        return None
    return root if root.is_dir() and not root.is_symlink() else None


def _can_traverse(path: Path) -> bool:
    """Return whether every user can reach ``path`` and, through its own mode, use it."""
    path = path.resolve()
    modes = [folder.stat().st_mode for folder in (path, *path.parents)]
    return all(mode & stat.S_IXOTH for mode in modes)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or tree under a temporary name first, so that a killed copy is never used."""
    folder = Path(tempfile.mkdtemp(dir=target.parent))
    folder.chmod(0o755)
    partial = folder / target.name
    if source.is_dir():
        shutil.copytree(source, partial, copy_function=_link_or_copy, symlinks=True)
    else:
        _link_or_copy(str(source), str(partial))
    partial.rename(target)
    folder.rmdir()


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
