"""A full disk ends in a named error; readers keep what is published, and a later rerun succeeds."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import LocalSpaceError, ObjectStoreError, WarehouseFullError
from nightshift.ingestion.load import ingest
from nightshift.lake.object_store import ObjectStore
from nightshift.warehouse.connection import connect
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish
from nightshift_local.servers.object_server import BUCKET

pytestmark = [pytest.mark.promise("R12"), pytest.mark.integration]

FIRST, SECOND = "2013-03-09", "2013-03-10"
FSIZE_BYTES = 20 * 1024**2
"""More than a WAL segment (16 MiB), which must stay writable: PostgreSQL ends itself when it
cannot write its log.
"""
PLAIN = Target("features/thing", "features", "feat_thing", ("thing_id",))


def visible(conn):
    return conn.execute(
        """
        select partition_date::text, count(*) from raw.weather \
join ops.published using (partition_date, load_id)
        where dataset = 'raw/weather' group by 1 order by 1
        """
    ).fetchall()


def test_ingest_names_the_disk_and_a_rerun_succeeds_when_the_warehouse_is_full(
    settings, conn, run, play, warehouse_disk
):
    first = play(FIRST)
    ingest(settings, "weather", first, run)
    second = play(SECOND)
    warehouse_disk.fill()
    with pytest.raises(WarehouseFullError, match="NS-WAREHOUSE-003") as caught:
        ingest(settings, "weather", second, run)

    assert "No space left on device" in caught.value.got
    assert visible(conn) == [(FIRST, 72)]
    warehouse_disk.free()
    assert ingest(settings, "weather", second, run).n_rows == 69
    assert visible(conn) == [(FIRST, 72), (SECOND, 69)]


@pytest.fixture
def limited(conn, settings):
    """Return a function that limits the file size of a connection's server process.

    It stands for a full disk, without a mount.
    """
    conn.execute(
        "create table features.feat_thing"
        " (partition_date date, load_id bigint, thing_id text, filling text)"
    )
    conn.execute("alter table features.feat_thing alter column filling set storage plain")

    def limit(connection, n_bytes):
        pid = connection.execute("select pg_backend_pid()").fetchone()[0]
        process, program = Path(f"/proc/{pid}"), shutil.which("prlimit")
        if program is None or not process.exists():
            pytest.skip("no prlimit here, or PostgreSQL runs elsewhere")
        # Even root may not limit another user's process without a capability: that user may.
        owner = (
            {"user": process.stat().st_uid, "group": process.stat().st_gid, "extra_groups": []}
            if os.geteuid() == 0
            else {}
        )
        subprocess.run(
            [program, f"--pid={pid}", f"--fsize={n_bytes}:"], check=True, cwd="/", **owner
        )

    return limit


def stage(connection, write, n_rows):
    connection.execute(
        "insert into features.feat_thing"
        " select '2013-07-01', %s, n::text, repeat(md5(n::text), 100)"
        " from generate_series(1, %s) n",
        [write.load_id, n_rows],
    )
    audit(connection, write)
    return publish(connection, write)


def write_limited(settings, limited, day, manifest):
    with connect(settings, "test limited") as connection:
        limited(connection, FSIZE_BYTES)
        stage(connection, begin(connection, [PLAIN], day, manifest), 8_000)


def test_write_names_the_disk_and_a_rerun_succeeds_when_files_may_not_grow(
    settings, conn, run, limited
):
    day = PartitionRange.of("2013-07-01")

    def manifest(inputs):
        return LoadManifest(run, {"input": inputs})

    published = stage(conn, begin(conn, [PLAIN], day, manifest("a")), 10)
    with pytest.raises(WarehouseFullError, match="NS-WAREHOUSE-003") as caught:
        write_limited(settings, limited, day, manifest("b"))

    assert "File too large" in caught.value.got
    seen = conn.execute(
        "select load_id from ops.published where dataset = 'features/thing'"
    ).fetchall()
    assert seen == [(published[0].load_id,)]
    assert conn.execute(
        "select count(*) from features.feat_thing join ops.published using (load_id)"
    ).fetchone() == (10,)
    again = stage(conn, begin(conn, [PLAIN], day, manifest("b")), 8_000)
    assert (again[0].n_rows, again[0].is_new) == (8_000, True)


def test_upload_hints_at_the_disk_and_a_rerun_succeeds_when_the_store_is_full(
    settings, store_on_small_disk
):
    server, disk = store_on_small_disk
    changes = {
        "s3_endpoint_url": server.address,
        "s3_access_key_id": server.keys.key_id,
        "s3_secret_access_key": SecretStr(server.keys.secret),
        "s3_bucket": BUCKET,
    }
    store = ObjectStore.open(settings.model_copy(update=changes))
    content = os.urandom(300_000)
    kept = store.put("kept", content)
    disk.fill()

    with pytest.raises(ObjectStoreError, match="NS-LAKE-001") as caught:
        store.put("late", content[::-1])

    assert "disk is full" in caught.value.todo
    assert store.get("kept", kept) == content
    disk.free()
    assert store.get("late", store.put("late", content[::-1])) == content[::-1]


def test_download_names_the_disk_and_leaves_nothing_when_the_folder_is_full(settings, small_disk):
    store = ObjectStore.open(settings)
    store.ensure_bucket()
    digest = store.put("big", os.urandom(2_000_000))
    small_disk.fill()

    with pytest.raises(LocalSpaceError, match="NS-SPACE-001"):
        store.download("big", small_disk.path / "copy", digest)

    assert [path.name for path in small_disk.path.iterdir()] == ["filler"]
    small_disk.free()
    store.download("big", small_disk.path / "copy", digest)
    assert (small_disk.path / "copy").stat().st_size == 2_000_000


def test_download_names_the_disk_and_leaves_nothing_when_files_may_not_grow(settings, tmp_path):
    store = ObjectStore.open(settings)
    store.ensure_bucket()
    digest = store.put("big", os.urandom(2_000_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(LocalSpaceError, match="NS-SPACE-001"):
            store.download("big", tmp_path / "copy", digest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(tmp_path.iterdir()) == []
    store.download("big", tmp_path / "copy", digest)
    assert (tmp_path / "copy").stat().st_size == 2_000_000
