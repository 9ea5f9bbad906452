"""Servers that the environment names win over the local ones."""

import pytest

from nightshift.errors import ServiceError
from nightshift_local.local_env import read_env, write_env
from nightshift_local.stack import compose


def _names(stack):
    return [part.name for part in stack.parts]


def test_every_part_is_local_when_environment_is_empty(tmp_path):
    assert _names(compose(tmp_path, environment={})) == [
        "postgres", "s3", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor",
        "airflow-triggerer",
    ]  # fmt: skip


def test_local_postgres_is_left_out_when_warehouse_is_elsewhere(tmp_path):
    stack = compose(tmp_path, environment={"NIGHTSHIFT_WAREHOUSE_HOST": "db.example.com"})
    assert _names(stack) == ["s3"]
    assert any("NIGHTSHIFT_AIRFLOW_DATABASE_URL" in notice for notice in stack.notices)
    assert not any(name.startswith("NIGHTSHIFT_WAREHOUSE") for name in stack.settings)


def test_airflow_runs_when_its_database_is_elsewhere_too(tmp_path):
    variables = {
        "NIGHTSHIFT_WAREHOUSE_HOST": "db.example.com",
        "NIGHTSHIFT_AIRFLOW_DATABASE_URL": "postgresql://a@db/airflow",
    }
    assert "airflow-scheduler" in _names(compose(tmp_path, environment=variables))


def test_local_s3_is_left_out_when_store_is_elsewhere(tmp_path):
    assert "s3" not in _names(
        compose(tmp_path, environment={"NIGHTSHIFT_S3_ENDPOINT_URL": "https://s3.example.com"})
    )


def test_own_settings_are_not_foreign_when_they_are_sourced_from_the_env_file(tmp_path):
    write_env(tmp_path, {"NIGHTSHIFT_WAREHOUSE_HOST": "127.0.0.1"})
    assert "postgres" in _names(
        compose(tmp_path, environment={"NIGHTSHIFT_WAREHOUSE_HOST": "127.0.0.1"})
    )


def test_unknown_service_is_refused_when_asked_for(tmp_path):
    with pytest.raises(ServiceError, match="expected: postgres, s3, airflow, mlflow"):
        compose(tmp_path, ["oracle"])


def test_env_file_is_closed_and_read_back_when_written(tmp_path):
    path = write_env(tmp_path, {"NIGHTSHIFT_HOME": "/a home"})
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_env(tmp_path) == {"NIGHTSHIFT_HOME": "/a home"}
