"""A warehouse whose raw tables lie on a small disk, and files of the replayed upstream."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from examples.flights.upstream import deliver
from psycopg import sql

from nightshift.contracts.partitions import PartitionRange
from nightshift_local.placement import place_servers
from nightshift_local.servers.object_server import ObjectServer

DISK_BYTES = 24 * 1024**2


@pytest.fixture
def settings(settings, tmp_path):
    """Keep what a stage writes below its home in the test's folder."""
    return settings.model_copy(update={"home": tmp_path})


@pytest.fixture
def play(settings):
    def deliver_days(first: str, last: str | None = None) -> PartitionRange:
        days = PartitionRange.of(first, last)
        deliver(settings, days, (), datasets=("weather",))
        return days

    return deliver_days


class SmallDisk:
    """A file system of a few MiB.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no block free."""
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                return

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[SmallDisk]:
    path = tmp_path / "small"
    path.mkdir()
    yield from mounted(path)


@pytest.fixture
def store_on_small_disk(tmp_path) -> Iterator[tuple[ObjectServer, SmallDisk]]:
    """Return an S3 server of its own whose objects lie on the small disk."""
    home = tmp_path / "store home"
    server, folder = ObjectServer(home), place_servers(home).own_dir("s3")
    try:
        for disk in mounted(folder, folder.stat()):
            try:
                server.ensure_started()
                yield server, disk
            finally:
                server.stop()
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def mounted(path: Path, owner: os.stat_result | None = None) -> Iterator[SmallDisk]:
    rights = f",uid={owner.st_uid},gid={owner.st_gid},mode=700" if owner else ""
    command = [
        shutil.which("mount") or "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={DISK_BYTES}{rights}",
        "tmpfs",
        str(path),
    ]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here; the variant by RLIMIT_FSIZE runs everywhere")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run([shutil.which("umount") or "umount", "-l", str(path)], check=True)


@pytest.fixture
def admin(settings) -> Iterator[psycopg.Connection]:
    """Return a superuser's connection to the test's own database."""
    with psycopg.connect(
        host=settings.warehouse_host,
        port=settings.warehouse_port,
        dbname=settings.warehouse_database,
        user=settings.warehouse_admin_user,
        password=settings.warehouse_admin_password.get_secret_value(),
        autocommit=True,
    ) as connection:
        yield connection


@pytest.fixture
def warehouse_disk(settings, admin) -> Iterator[SmallDisk]:
    """Return the small disk on which the test's raw tables lie."""
    data = Path(admin.execute("show data_directory").fetchone()[0])
    if not data.is_dir():
        pytest.skip("PostgreSQL runs on another machine")
    name = f"small_{uuid.uuid4().hex[:8]}"
    path = data.parent / name
    path.mkdir()
    try:
        for disk in mounted(path):
            space = path / "tablespace"
            space.mkdir(mode=0o700)
            os.chown(space, data.stat().st_uid, data.stat().st_gid)
            admin.execute(
                sql.SQL("create tablespace {} location {}").format(sql.Identifier(name), str(space))
            )
            admin.execute(
                sql.SQL("alter table raw.weather set tablespace {}").format(sql.Identifier(name))
            )
            yield disk
            admin.execute("alter table raw.weather set tablespace pg_default")
            admin.execute(sql.SQL("drop tablespace {}").format(sql.Identifier(name)))
    finally:
        path.rmdir()
