from __future__ import annotations

import os
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from nightshift.registry.model_versions import register, sync_mlflow
from nightshift.registry.promotion import decide
from nightshift.training.pipeline import train
from nightshift.training.training_set import build_training_set

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def version(world):
    """Return a version that was registered and promoted while MLflow was down."""
    training_set = build_training_set(world.settings, world.spec, world.night, world.run)
    candidate = train(world.settings, world.spec, training_set.key, world.run)
    down = with_mlflow(world, "http://127.0.0.1:9")
    version = register(down, candidate, world.run)
    assert decide(down, world.spec, version.version, world.run).verdict == "first"
    return version


@pytest.fixture
def tracking_uri(world):
    """Return a tracking store whose tables MLflow makes in the test's own database."""
    settings = world.settings
    password = quote(settings.warehouse_password.get_secret_value(), safe="")
    return f"postgresql://{settings.warehouse_user}:{password}@{settings.warehouse_host}:{settings.warehouse_port}/{settings.warehouse_database}"


def with_mlflow(world, uri):
    return world.settings.model_copy(update={"mlflow_tracking_uri": SecretStr(uri)})


def mirror_rows(world):
    return world.conn.execute("select mlflow_version, warning, mirrored_at is not null from ml.mlflow_mirror").fetchall()


def test_version_stands_and_mirror_catches_up_when_mlflow_was_down(world, version, tracking_uri, monkeypatch, capfd):
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
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", world.settings.s3_secret_access_key.get_secret_value())
    client = MlflowClient(tracking_uri=tracking_uri)
    shown = [client.get_model_version_by_alias("parcel_late", alias) for alias in ("champion", "challenger")]
    assert [str(part.version) for part in shown] == ["1", "1"]
    run = client.get_run(shown[0].run_id)
    assert client.get_experiment(run.info.experiment_id).name == "parcel_late"
    assert run.info.artifact_uri.startswith(f"s3://{world.settings.s3_bucket}/mlflow/parcel_late/")
    assert run.data.params["digest"] == version.digest
    assert run.data.metrics["challenger.roc_auc"] == version.metrics["challenger"]["roc_auc"]
    names = {part.path for part in client.list_artifacts(run.info.run_id, "evidence")}
    assert names == {f"evidence/{name}" for name in ("backtest.png", "curves.png", "importance.png", "model.json", "reliability.png")}
