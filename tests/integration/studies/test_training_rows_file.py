"""The rows of a training as a file: the digest of the record, split marks, allowed columns."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pyarrow import parquet
from tests.integration.registry.conftest import NIGHT, RUN
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.contracts.partitions import Partition
from nightshift.lake.snapshots import digest_of
from nightshift.studies.training_rows_file import FileNotWrittenError, write_training_rows
from nightshift.training.training_set import build_training_set

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_the_file_has_the_rows_of_the_recorded_training_set(court, tmp_path):
    path = tmp_path / "new" / "rows.parquet"
    written = write_training_rows(court.settings, court.spec, NIGHT, path)
    assert (written.sha256, written.training_set) == (
        court.training_set.sha256,
        court.training_set.key,
    )
    assert written.parts == {"gap": 600, "holdout": 3000, "train": 7200, "validation": 2400}
    # The spec names neither: a leak of the outcome, and where the parcel lies.
    assert written.left_out == ["depot", "hint"]

    table = parquet.read_table(path)
    assert table.schema.metadata[b"training_set_sha256"].decode() == court.training_set.sha256
    names = [name for name in table.column_names if not name.startswith("nightshift_")]
    assert table.select(names).equals(court.rows.select(names))
    days = table["partition_date"].to_numpy()
    marks = np.array(table["nightshift_split"].to_pylist())
    assert set(marks[days >= np.datetime64("2020-02-04")]) == {"holdout"}
    assert set(table["nightshift_weight"].to_pylist()) == {1.0}
    assert [file.name for file in path.parent.iterdir()] == ["rows.parquet"]


def test_a_training_afterwards_records_the_same_digest(court, tmp_path):
    earlier = Partition.parse("2020-02-13")
    written = write_training_rows(court.settings, court.spec, earlier, tmp_path / "rows.parquet")
    assert written.training_set == ""
    count = "select count(*) from ml.training_sets where partition_date = '2020-02-13'"
    assert court.conn.execute(count).fetchone() == (0,)
    assert build_training_set(court.settings, court.spec, earlier, RUN).sha256 == written.sha256


def test_recency_weights_are_those_of_the_fit(court, tmp_path):
    training = court.spec.training
    recipe = training.recipe.model_copy(update={"half_life_days": 10})
    training = training.model_copy(update={"recipe": recipe})
    spec = court.spec.model_copy(update={"training": training})
    write_training_rows(court.settings, spec, NIGHT, tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    days = table["partition_date"].to_numpy()
    weights = table["nightshift_weight"].to_numpy()
    assert set(weights[days == np.datetime64("2020-02-13")]) == {1.0}
    assert weights[days == np.datetime64("2020-02-03")].max() == pytest.approx(0.5)


def test_an_existing_file_stays_when_the_new_one_cannot_be_written(court, tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"precious")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nightshift.atomic_file.os.fsync", full)
    with pytest.raises(FileNotWrittenError, match="No space left"):
        write_training_rows(court.settings, court.spec, NIGHT, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"precious"]


def test_the_command_says_the_digest(court, tmp_path, monkeypatch):
    monkeypatch.setattr("nightshift.cli.models.training_set.load_settings", lambda: court.settings)
    monkeypatch.setattr("nightshift.contracts.model_spec.load_spec", lambda *_: court.spec)
    path = tmp_path / "rows.parquet"
    arguments = ["training-set", "parcel_late", "--as-of", NIGHT.key, "--to", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"SHA-256 {digest_of(court.rows)} ({court.training_set.key})" in result.stdout
    document = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (document["n_rows"], document["sha256"]) == (13200, court.training_set.sha256)
