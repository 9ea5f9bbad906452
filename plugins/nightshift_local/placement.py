"""Decide where a server keeps its files and as which user it runs.

An ordinary user's servers run as that user under the home. PostgreSQL refuses root, so root's
servers run as a user of the home's own, in a folder that this user can reach: the home if every
parent can be traversed, else one under ``/var/lib/nightshift``. The user is a number without an
account: no program of the machine runs as it, as many do as ``nobody``.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from nightshift_local.home import claim_home

PRIVATE_IDS = range(61184, 65520)
"""Numbers of users and groups that systemd keeps free for users without an account."""
SYSTEM_STATE_DIR = Path("/var/lib/nightshift")
SERVER_FOLDERS = ("postgres", "s3")
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

    def give_tree(self, folder: Path) -> None:
        """Make the servers' user the owner of a folder and of all that is in it, unless it is.

        The folder itself is given last, so an interrupted call is completed by the next.
        """
        if self.uid in {None, folder.stat().st_uid}:
            return
        for parent, _, files in os.walk(folder, topdown=False):
            for name in files:
                self.give(Path(parent, name))
            self.give(Path(parent))

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
    root = home if _can_traverse(home) else _private_root(home)
    return Placement(root, *_servers_user(root))


def remove_placed_files(home: Path) -> None:
    """Delete what the stopped servers of a home keep outside of it."""
    placement = place_servers(home)
    if placement.root != home:
        shutil.rmtree(placement.root, ignore_errors=True)
        (home / "private-root").unlink(missing_ok=True)


def _servers_user(root: Path) -> tuple[int, int]:
    """Return the user and group of a home's servers: the owner of its files, or a private one."""
    folders = [root / name for name in SERVER_FOLDERS]
    for status in [folder.stat() for folder in folders if folder.exists()]:
        # A running server cannot be given another user; a home keeps the one that it began with.
        if status.st_uid != 0:
            return status.st_uid, status.st_gid
    accounts = {account.pw_uid for account in pwd.getpwall()}
    accounts |= {group.gr_gid for group in grp.getgrall()}
    free = [number for number in PRIVATE_IDS if number not in accounts]
    # By the folder's path: the servers of two homes are nearly always strangers too.
    private = free[zlib.crc32(os.fsencode(root)) % len(free)]
    return private, private


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
