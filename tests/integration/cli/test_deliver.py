"""What a person types to bring a history of their own."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path

import pyarrow as pa
import pytest
import typer
from pyarrow import parquet
from tests.drop_listing import list_drops

from nightshift.cli.data import deliver, deliver_history
from nightshift.contracts.partitions import PartitionKeyError, PartitionRange
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.contract_errors import ColumnsError
from nightshift.settings import Settings

pytestmark = pytest.mark.integration
CONTRACT = """
name: visits
description: Visitors of a shop by hour.
schema_version: 3
timezone: America/New_York
delivery: daily
history_start: 2013-02-01
grain: one shop and hour
key: [shop, hour]
columns:
  - {name: shop, type: text}
  - {name: hour, type: integer}
versions:
  2: {why: The hour of the till instead of the office.}
  3: {why: A second till.}
"""


@pytest.fixture
def own(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with one contract, which the commands read too."""
    (tmp_path / "dags" / "datasets").mkdir(parents=True)
    (tmp_path / "dags" / "datasets" / "visits.yaml").write_text(CONTRACT)
    (tmp_path / "files").mkdir()
    changed = settings.model_copy(update={"dags_dir": tmp_path / "dags"})
    ObjectStore.open(changed).ensure_bucket()
    for command in (deliver, deliver_history):
        monkeypatch.setattr(command, "load_settings", lambda: changed)
    return changed


def test_each_file_of_a_folder_is_the_drop_of_its_day_when_a_history_is_delivered(
    own: Settings, tmp_path: Path
) -> None:
    (tmp_path / "files" / "2013-02-01.csv").write_text("shop,hour\na,9\na,10\n")
    (tmp_path / "files" / "2013-07-01.csv").write_text('shop,hour\n"a\nb",9\n')

    for _ in range(2):
        deliver_history.deliver_history("visits", tmp_path / "files", at_cutoff=True)

    drops = list_drops(
        ObjectStore.open(own), "visits", PartitionRange.of("2013-01-01", "2013-12-31")
    )
    assert [
        (drop.partition.isoformat(), drop.n_rows, drop.delivered_at, drop.schema_version)
        for drop in drops
    ] == [
        ("2013-02-01", 2, dt.datetime(2013, 2, 2, 5, 30, tzinfo=dt.UTC), 3),
        ("2013-07-01", 1, dt.datetime(2013, 7, 2, 4, 30, tzinfo=dt.UTC), 3),
    ]


def test_nothing_is_delivered_when_a_file_of_the_folder_is_not_named_by_its_day(
    own: Settings, tmp_path: Path
) -> None:
    (tmp_path / "files" / "2013-02-01.csv").write_text("shop,hour\na,9\n")
    (tmp_path / "files" / "monday.csv").write_text("shop,hour\na,9\n")

    with pytest.raises(PartitionKeyError, match="monday"):
        deliver_history.deliver_history("visits", tmp_path / "files")

    assert (
        list_drops(ObjectStore.open(own), "visits", PartitionRange.of("2013-01-01", "2013-12-31"))
        == []
    )


def test_an_empty_folder_is_refused_when_a_history_is_delivered(
    own: Settings, tmp_path: Path
) -> None:
    with pytest.raises(typer.BadParameter, match="holds no data file"):
        deliver_history.deliver_history("visits", tmp_path / "files")


def test_compressed_files_and_parquet_are_delivered_with_their_count_of_rows(
    own: Settings, tmp_path: Path
) -> None:
    rows = "shop,hour\na,9\nb,10\nc,11\n"
    (tmp_path / "files" / "2013-02-01.csv.gz").write_bytes(gzip.compress(rows.encode()))
    parquet.write_table(
        pa.table({"shop": ["a", "b"], "hour": [9, 10]}), tmp_path / "files" / "2013-02-02.parquet"
    )

    deliver_history.deliver_history("visits", tmp_path / "files")

    drops = list_drops(
        ObjectStore.open(own), "visits", PartitionRange.of("2013-01-01", "2013-12-31")
    )
    assert [
        (str(drop.partition), drop.n_rows, drop.data_key.partition("Z")[2]) for drop in drops
    ] == [
        ("2013-02-01", 3, ".csv.gz"),
        ("2013-02-02", 2, ".parquet"),
    ]


def test_a_file_that_is_not_what_its_name_says_is_refused(own: Settings, tmp_path: Path) -> None:
    (tmp_path / "files" / "2013-02-01.csv.gz").write_text("shop,hour\na,9\n")
    with pytest.raises(typer.BadParameter, match=r"cannot be read as \.csv\.gz"):
        deliver_history.deliver_history("visits", tmp_path / "files")
    assert (
        list_drops(ObjectStore.open(own), "visits", PartitionRange.of("2013-01-01", "2013-12-31"))
        == []
    )


def test_a_file_is_only_checked_when_a_delivery_is_tried_out(
    own: Settings, tmp_path: Path, capsys
) -> None:
    file, wrong = tmp_path / "files" / "right.csv", tmp_path / "files" / "wrong.csv"
    file.write_text("shop,hour\na,9\na,9\na,10\n")
    wrong.write_text("shop\na\n")

    deliver.deliver("visits", "2013-02-01", file, dry_run=True)
    with pytest.raises(ColumnsError):
        deliver.deliver("visits", "2013-02-01", wrong, dry_run=True)

    assert (
        "would be loaded: 2 rows, 0 distinct refused, 1 repeated. Nothing was written."
        in capsys.readouterr().out
    )
    assert (
        list_drops(ObjectStore.open(own), "visits", PartitionRange.of("2013-01-01", "2013-12-31"))
        == []
    )
