from __future__ import annotations

import os
import time
from urllib.parse import quote

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from tests.integration.training.conftest import train_once

from nightshift.registry import mlflow_mirror
from nightshift.registry.model_versions import register, sync_mlflow
from nightshift.registry.promotion import decide
from nightshift.training.training_set import build_training_set
from nightshift.warehouse.connection import connect

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def version(world):
    """Return a version that was registered and promoted while MLflow was down."""
    training_set = build_training_set(world.settings, world.spec, world.night, world.run)
    candidate = train_once(world, world.spec, training_set)
    down = with_mlflow(world, "http://127.0.0.1:9")
    version = register(down, candidate, world.run)
    assert decide(down, world.spec, version.version, world.run).verdict == "first"
    return version


@pytest.fixture
def tracking_uri(world):
    """Return a tracking store whose tables MLflow makes in the test's own database."""
    settings = world.settings
    password = quote(settings.warehouse_password.get_secret_value(), safe="")
    server = f"{settings.warehouse_host}:{settings.warehouse_port}"
    user, database = settings.warehouse_user, settings.warehouse_database
    return f"postgresql://{user}:{password}@{server}/{database}"


def with_mlflow(world, uri):
    return world.settings.model_copy(update={"mlflow_tracking_uri": SecretStr(uri)})


def mirror_rows(world):
    return world.conn.execute(
        "select mlflow_version, warning, mirrored_at is not null from ml.mlflow_mirror"
    ).fetchall()


def test_version_stands_and_mirror_catches_up_when_mlflow_was_down(
    world, version, tracking_uri, monkeypatch, capfd
):
    [(mlflow_version, warning, is_mirrored)] = mirror_rows(world)
    assert (mlflow_version, is_mirrored) == (None, False)
    assert "127.0.0.1" in warning
    up = with_mlflow(world, tracking_uri)
    environment = dict(os.environ)

    assert sync_mlflow(up, "parcel_late") == []
    assert sync_mlflow(up, "parcel_late") == []

    assert mirror_rows(world) == [("1", None, True)]
    assert "registered model" not in "".join(capfd.readouterr())
    assert dict(os.environ) == environment
    assert_mlflow_shows(version, world, tracking_uri, monkeypatch)


def assert_mlflow_shows(version, world, tracking_uri, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", world.settings.s3_endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", world.settings.s3_access_key_id)
    monkeypatch.setenv(
        "AWS_SECRET_ACCESS_KEY", world.settings.s3_secret_access_key.get_secret_value()
    )
    client = MlflowClient(tracking_uri=tracking_uri)
    shown = [
        client.get_model_version_by_alias("parcel_late", alias)
        for alias in ("champion", "challenger")
    ]
    assert [str(part.version) for part in shown] == ["1", "1"]
    run = client.get_run(shown[0].run_id)
    assert client.get_experiment(run.info.experiment_id).name == "parcel_late"
    assert run.info.artifact_uri.startswith(f"s3://{world.settings.s3_bucket}/mlflow/parcel_late/")
    assert run.data.params["digest"] == version.digest
    assert run.data.metrics["challenger.roc_auc"] == version.metrics["challenger"]["roc_auc"]
    names = {part.path for part in client.list_artifacts(run.info.run_id, "evidence")}
    assert names == {
        f"evidence/{name}"
        for name in (
            "backtest.png",
            "curves.png",
            "importance.png",
            "model.json",
            "reliability.png",
        )
    }


@pytest.mark.promise("R17")
def test_the_night_goes_on_when_somebody_holds_mlflows_tables(world, version, tracking_uri):
    up = with_mlflow(world, tracking_uri).model_copy(update={"lock_timeout_seconds": 1})
    assert sync_mlflow(up, "parcel_late") == []
    world.conn.execute("delete from ml.mlflow_mirror")
    with world.conn.transaction():
        world.conn.execute("lock table public.registered_models, public.experiments")
        started = time.monotonic()
        with connect(up, "sync beside a lock") as conn:
            assert "LockNotAvailable" in str(mirror_aliases_of_all(up, conn))
        assert time.monotonic() - started < 20


def mirror_aliases_of_all(settings, conn):
    conn.execute(
        "insert into ml.mlflow_mirror (model, digest, mlflow_version, mirrored_at)"
        " select model, digest, '1', now() from ml.model_versions"
    )
    return mlflow_mirror.mirror_aliases(settings, conn, "parcel_late")


def test_mlflows_connections_are_named_and_limited_like_ours(world, tracking_uri):
    limited = mlflow_mirror.tracking_uri(with_mlflow(world, tracking_uri), "train/parcel_late")
    with create_engine(limited).connect() as conn:
        names = (
            "application_name",
            "statement_timeout",
            "lock_timeout",
            "client_connection_check_interval",
        )
        found = {name: conn.execute(text(f"show {name}")).scalar() for name in names}
    assert found == {
        "application_name": "train/parcel_late",
        "statement_timeout": "10min",
        "lock_timeout": "10s",
        "client_connection_check_interval": "2s",
    }
    assert (
        mlflow_mirror.tracking_uri(with_mlflow(world, "http://127.0.0.1:9"), "x")
        == "http://127.0.0.1:9"
    )
