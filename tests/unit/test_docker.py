"""The container files keep the promises of ``docker/README.md`` as far as they can be checked without an engine."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from nightshift.services.airflow_settings import QUIET_VENDORS, pools_document
from nightshift.settings import PROJECT_ROOT

DOCKER = PROJECT_ROOT / "docker"
COMPOSE = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def test_compose_file_follows_the_specification():
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml")]
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


def test_tasks_do_not_get_the_superuser_or_the_keys_of_other_servers():
    for name in ("api-server", "scheduler", "dag-processor"):
        values = " ".join(map(str, SERVICES[name]["environment"].values()))
        assert "POSTGRES_PASSWORD" not in values
        assert not any(key.startswith(("WEED_", "POSTGRES_", "NIGHTSHIFT_WAREHOUSE_ADMIN")) for key in SERVICES[name]["environment"])
    assert SERVICES["setup"]["environment"]["NIGHTSHIFT_WAREHOUSE_ADMIN_USER"] == "postgres"


def test_env_example_names_exactly_the_secrets_that_compose_demands_and_holds_none():
    demanded = set(re.findall(r"\$\{([A-Z0-9_]+):\?\}", COMPOSE))
    lines = [line for line in (DOCKER / "env.example").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert {line.removesuffix("=") for line in lines} == demanded
    assert all(line.endswith("=") for line in lines)


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
        argv, env={"NIGHTSHIFT_HEALTH_URL": "http://127.0.0.1:9/health"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "http://127.0.0.1:9/health" in done.stderr
