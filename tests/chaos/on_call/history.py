"""Three weeks of real flights with one trained model, loaded once; each fault gets a copy."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from examples.flights.demo import load_history
from examples.flights.stopwatch import Stopwatch
from examples.flights.upstream import deliver
from tests.databases import create_database, run_as_admin

from nightshift.cli.data.backfill import build_features, ingest_datasets
from nightshift.cli.services.migrate import set_up
from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.ingestion.load import ingest
from nightshift.registry.model_versions import ModelVersion, register
from nightshift.scoring.pipeline import score
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.training.pipeline import train
from nightshift.training.training_set import build_training_set
from nightshift.warehouse.connection import connect

MODEL = "flight_delayed"
FIRST_DAY, LAST_DAY = "2013-01-01", "2013-01-20"
NIGHT, HOLE, LATER = "2013-01-21", "2013-01-22", "2013-01-23"
"""The night that goes wrong, and two more whose drops have landed and are not loaded."""
RUN = RunContext("test/history", actor="test")
SMALL_TRAINING = {
    "minimum_days": 12,
    "cold_start_days": 11,
    "validation_days": 3,
    "holdout_days": 3,
    "num_boost_round": 30,
    "early_stopping_rounds": 30,
}

Contents = dict[tuple[str, str], str]
"""Content hash of what readers see, by dataset and day."""

UNTRAINED, FEATURES, SCORED = "untrained", "features", "scored"
"""Stages of the history: with a training set only; the night's features published, with a
champion; three more days as an undisturbed run leaves them."""


@dataclass(frozen=True)
class History:
    """What every fault starts from.

    Attributes:
        settings: Servers, the bucket of the history, and folders.
        databases: The warehouse of each stage; nobody is connected to it.
        contents: What an undisturbed run publishes.
        digest: The model that the training set gives.
    """

    settings: Settings
    databases: dict[str, str]
    contents: Contents
    digest: str


def with_settings(settings: Settings, **changed: object) -> Settings:
    """Return other settings; the folders that were derived from the old ones are not kept."""
    return Settings(**{**dict(settings), **changed})


def clone_database(settings: Settings, source: str, name: str) -> None:
    """Copy a database to which nobody is connected."""
    copy = f"create database {name} template {source} strategy file_copy"
    run_as_admin(settings, f"{copy} owner {settings.warehouse_user}")


def copy_dags(folder: Path) -> None:
    """Copy the DAG folder with one model, whose training fits three weeks."""
    shutil.copytree(PROJECT_ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "models").glob("*.yaml"):
        if path.stem != MODEL:
            path.unlink()
    path = folder / "models" / f"{MODEL}.yaml"
    document = yaml.safe_load(path.read_text())
    document["training"] |= SMALL_TRAINING
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def promote(settings: Settings, version: ModelVersion, since: str) -> None:
    """Record that a version is champion from a partition on; its quality is another matter."""
    with connect(settings, "test history") as conn:
        conn.execute(
            "insert into ml.promotions (model, version, verdict, partition_date,"
            " effective_partition, reasons, numbers, run_id, actor)"
            " values (%s, %s, 'promoted', %s, %s, '{}', '{}', 'r', 'test')",
            [MODEL, version.version, LAST_DAY, since],
        )


def train_version(settings: Settings, spec: ModelSpec) -> ModelVersion:
    """Train on the one training set and register the version."""
    return register(settings, train(settings, spec, training_set_key(settings), RUN), RUN)


def training_set_key(settings: Settings) -> str:
    """Return the key of the one training set."""
    with connect(settings, "test history") as conn:
        ((key,),) = conn.execute("select training_set from ml.training_sets").fetchall()
    return str(key)


@contextmanager
def open_history(session_settings: Settings, folder: Path) -> Iterator[History]:
    """Load the history into databases and a bucket of its own; drop the databases at the end."""
    copy_dags(folder / "dags")
    name = f"oncall_{uuid.uuid4().hex[:8]}"
    databases = {stage: f"{name}_{stage}" for stage in (UNTRAINED, FEATURES, SCORED)}
    settings = with_settings(
        session_settings,
        s3_bucket=name.replace("_", "-"),
        home=folder / "home",
        dags_dir=folder / "dags",
        mlflow_tracking_uri="",
    )
    settings.home.mkdir()
    at = {
        stage: with_settings(settings, warehouse_database=database)
        for stage, database in databases.items()
    }
    try:
        create_database(settings, name=databases[UNTRAINED])
        spec = load_spec(settings.models_dir, MODEL)
        _load_until_last_day(at[UNTRAINED], spec)
        clone_database(settings, databases[UNTRAINED], databases[FEATURES])
        version = _load_night(at[FEATURES], spec)
        clone_database(settings, databases[FEATURES], databases[SCORED])
        _load_later_days(at[SCORED], spec)
        yield History(settings, databases, published_contents(at[SCORED]), version.digest)
    finally:
        for database in databases.values():
            run_as_admin(settings, f"drop database if exists {database} with (force)")


@contextmanager
def open_bare_history(session_settings: Settings, folder: Path) -> Iterator[History]:
    """Create one warehouse for all stages in which nothing is loaded; one day's files have landed.

    It is there within seconds, for the faults that need no more.
    """
    copy_dags(folder / "dags")
    name = f"bare_{uuid.uuid4().hex[:8]}"
    loaded = f"{name}_loaded"
    settings = with_settings(
        session_settings,
        s3_bucket=name.replace("_", "-"),
        home=folder / "home",
        dags_dir=folder / "dags",
        mlflow_tracking_uri="",
    )
    settings.home.mkdir()
    try:
        bare = with_settings(settings, warehouse_database=name)
        create_database(settings, name=name)
        set_up(bare)
        deliver(bare, PartitionRange.of(HOLE))
        clone_database(settings, name, loaded)
        undisturbed = with_settings(settings, warehouse_database=loaded)
        ingest(undisturbed, "weather", PartitionRange.of(HOLE), RUN)
        stages = dict.fromkeys((UNTRAINED, FEATURES, SCORED), name)
        yield History(settings, stages, published_contents(undisturbed), "")
    finally:
        for database in (name, loaded):
            run_as_admin(settings, f"drop database if exists {database} with (force)")


def _load_until_last_day(settings: Settings, spec: ModelSpec) -> None:
    history = PartitionRange.of(FIRST_DAY, LAST_DAY)
    load_history(settings, {}, history, RUN, Stopwatch())
    build_training_set(settings, spec, Partition.parse(LAST_DAY), RUN)
    deliver(settings, PartitionRange.of(NIGHT, LATER))


def _load_night(settings: Settings, spec: ModelSpec) -> ModelVersion:
    version = train_version(settings, spec)
    promote(settings, version, NIGHT)
    night = PartitionRange.of(NIGHT)
    ingest_datasets(settings, night, RUN)
    build_features(settings, night, RUN)
    return version


def _load_later_days(settings: Settings, spec: ModelSpec) -> None:
    score(settings, spec, PartitionRange.of(NIGHT), RUN)
    later = PartitionRange.of(HOLE, LATER)
    ingest_datasets(settings, later, RUN)
    build_features(settings, later, RUN)
    score(settings, spec, PartitionRange.of(HOLE), RUN)


def published_contents(settings: Settings) -> Contents:
    """Return what readers see from the night on."""
    query = """
        select p.dataset, p.partition_date::text, l.content_hash
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.partition_date >= %s
    """
    with connect(settings, "test history") as conn:
        rows = conn.execute(query, [NIGHT]).fetchall()
    return {(dataset, day): content_hash for dataset, day, content_hash in rows}
