"""The container files keep the promises of ``docker/README.md`` that need no engine to check."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from nightshift.settings import PROJECT_ROOT
from nightshift_local.servers.airflow_settings import QUIET_VENDORS, pools_document
from nightshift_local.servers.mlflow_app import PASSWORD_VARIABLE
from nightshift_local.servers.postgres import SERVER_DATABASES

DOCKER = PROJECT_ROOT / "docker"
COMPOSE = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def test_compose_file_follows_the_specification():
    argv = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(DOCKER / "compose.yaml"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_has_no_capabilities_no_new_privileges_and_a_read_only_root(name: str):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert "privileged" not in service


def test_only_loopback_ports_are_published():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


AIRFLOW_SECRETS = {
    "NIGHTSHIFT_WAREHOUSE_PASSWORD", "NIGHTSHIFT_S3_ACCESS_KEY_ID",
    "NIGHTSHIFT_S3_SECRET_ACCESS_KEY", "MLFLOW_DATABASE_PASSWORD", "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_DATABASE_PASSWORD",
}  # fmt: skip
SECRETS = {
    "postgres": {
        "POSTGRES_PASSWORD", "NIGHTSHIFT_WAREHOUSE_PASSWORD", "NIGHTSHIFT_ANALYST_PASSWORD",
        "AIRFLOW_DATABASE_PASSWORD", "MLFLOW_DATABASE_PASSWORD",
    },
    "s3": {
        "NIGHTSHIFT_S3_ACCESS_KEY_ID", "NIGHTSHIFT_S3_SECRET_ACCESS_KEY",
        "MLFLOW_S3_ACCESS_KEY_ID", "MLFLOW_S3_SECRET_ACCESS_KEY",
        "WEED_S3_SSE_KEK", "WEED_JWT_SIGNING_KEY", "WEED_JWT_SIGNING_READ_KEY",
        "WEED_JWT_FILER_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_READ_KEY",
    },
    "setup": {*AIRFLOW_SECRETS, "POSTGRES_PASSWORD"},
    "api-server": AIRFLOW_SECRETS,
    "scheduler": AIRFLOW_SECRETS,
    "dag-processor": AIRFLOW_SECRETS,
    "mlflow": {
        "NIGHTSHIFT_MLFLOW_PASSWORD", "MLFLOW_DATABASE_PASSWORD", "MLFLOW_S3_ACCESS_KEY_ID",
        "MLFLOW_S3_SECRET_ACCESS_KEY",
    },
}  # fmt: skip
"""What each service is told; a new service has to be written down here."""


def test_every_service_is_told_its_own_secrets_and_no_others():
    told = {
        name: set(re.findall(r"\$\{([A-Z0-9_]+):\?\}", str(service["environment"])))
        for name, service in SERVICES.items()
    }
    assert told == SECRETS


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_secret_stands_in_an_argument_of_any_service(name: str):
    command = str(SERVICES[name].get("command", "")) + str(SERVICES[name].get("entrypoint", ""))
    health = str(SERVICES[name].get("healthcheck", ""))
    assert not re.search(r"\$\{?[A-Z]|password|secret|://", command + health, re.IGNORECASE)


def test_state_of_tasks_is_shared_with_nobody_else():
    sharing = {
        name
        for name, service in SERVICES.items()
        if any("state:" in volume for volume in service.get("volumes", []))
    }
    assert sharing == {"setup", "api-server", "scheduler", "dag-processor"}


def test_only_pages_for_people_leave_the_inner_network():
    assert yaml.safe_load(COMPOSE)["networks"]["backend"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if service["networks"] != ["backend"]}
    assert outside == {"api-server", "mlflow"}
    assert outside == {name for name, service in SERVICES.items() if "ports" in service}


def test_every_service_is_on_the_page_of_listeners():
    listed = (
        (PROJECT_ROOT / "docs" / "listeners.md")
        .read_text(encoding="utf-8")
        .split("## `docker/compose.yaml`")[1]
    )
    assert {name for name in SERVICES if f"\n| {name} |" not in listed} == set()
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port for port in published if port not in listed] == []


def test_scheduler_serves_its_health_to_its_own_container_and_no_logs():
    assert "--skip-serve-logs" in SERVICES["scheduler"]["command"]
    assert (
        SERVICES["scheduler"]["environment"][
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST"
        ]
        == "127.0.0.1"
    )


def test_mlflow_is_served_by_our_page_behind_its_login():
    command = SERVICES["mlflow"]["command"]
    assert command[-1] == "nightshift_local.servers.mlflow_app:create()"
    assert "mlflow" not in command
    assert PASSWORD_VARIABLE in SERVICES["mlflow"]["environment"]


def test_env_example_names_exactly_the_secrets_that_compose_demands_and_holds_none():
    demanded = set(re.findall(r"\$\{([A-Z0-9_]+):\?\}", COMPOSE))
    lines = [
        line
        for line in (DOCKER / "env.example").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert {line.removesuffix("=") for line in lines} == demanded
    assert all(line.endswith("=") for line in lines)


def test_no_database_of_postgresql_itself_is_open_to_every_role():
    script = (DOCKER / "postgres-init.sh").read_text(encoding="utf-8")
    assert f"revoke all on database {', '.join(SERVER_DATABASES)} from public;" in script


def test_pools_are_those_of_the_local_airflow():
    assert (DOCKER / "pools.json").read_text(encoding="utf-8").strip() == pools_document()


def test_image_runs_without_root_from_a_base_that_can_be_pinned_with_hashed_wheels_only():
    final = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^ARG BASE=", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}
    assert "USER 10001:10001" in final
    assert "HEALTHCHECK" in final
    assert DOCKERFILE.count("--require-hashes --only-binary :all:") == 2
    assert not re.search(r"\b(gcc|g\+\+|build-essential|make)\b", DOCKERFILE)


def test_image_keeps_vendors_from_reporting_home():
    for name, value in QUIET_VENDORS.items():
        assert f"{name}={value}" in DOCKERFILE


def test_healthcheck_fails_when_nothing_answers():
    argv = [sys.executable, str(DOCKER / "healthcheck.py")]
    done = subprocess.run(
        argv,
        env={"NIGHTSHIFT_HEALTH_URL": "http://127.0.0.1:9/health"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "http://127.0.0.1:9/health" in done.stderr
