"""A real Prometheus scrapes the metrics, fires the alerts and answers the dashboards' queries."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from tests.ends_with_us import ENDS_WITH_US
from tests.integration.local.listeners import METRICS
from tests.integration.local.stranger import as_stranger, attempt
from tests.integration.metrics.world import MODEL, make_world
from tests.integration.notices.incident_rows import open_incident
from tests.integration.notices.receivers import free_port

from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
RULES = PROJECT_ROOT / "docker" / "prometheus" / "nightshift.rules.yml"
DASHBOARDS = sorted((PROJECT_ROOT / "docker" / "grafana").glob("*.json"))
SAMPLES = f'count_over_time(nightshift_champion_version{{model="{MODEL}"}}[10m])'
TOKEN = "a-token-of-this-test"
EXPECTED_ALERTS = {
    "NightshiftFallbackInUse", "NightshiftRowsRefused", "NightshiftDriftBreached",
    "NightshiftIncidentCritical", "NightshiftNobodyLooks", "NightshiftPredictionsLate",
}  # fmt: skip
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is missing: apt-get install prometheus"
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False
    )


@needs_promtool
def test_rules_fire_when_they_should():
    done = promtool("test", "rules", "nightshift_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_rule_that_fires_too_late_fails_its_test(tmp_path):
    folder = tmp_path / "prometheus"
    shutil.copytree(RULES.parent, folder)
    wrong = RULES.read_text(encoding="utf-8").replace("for: 15m", "for: 150m")
    (folder / RULES.name).write_text(wrong)
    done = promtool("test", "rules", str(folder / "nightshift_test.yml"))
    assert done.returncode != 0
    assert "NightshiftFallbackInUse" in done.stdout + done.stderr


def test_every_alert_is_tested_and_names_a_page_or_command_that_exists():
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    tested = (RULES.parent / "nightshift_test.yml").read_text(encoding="utf-8")
    for rule in groups[0]["rules"]:
        # Silent in the first test, and firing in another one.
        assert len(re.findall(rf"alertname: {rule['alert']}\b", tested)) >= 2, rule["alert"]
        for page in re.findall(r"docs/[\w./-]+\.md", rule["annotations"]["description"]):
            assert (PROJECT_ROOT / page).is_file(), page


def get(url: str, token: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url)  # noqa: S310
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


@pytest.fixture
def target(settings, conn, tmp_path):
    """Return the address of a `nightshift metrics` that serves a small world."""
    make_world(conn)
    open_incident(conn)
    conn.execute(
        """
        insert into ops.notice_tries (channel, message_key, attempt, outcome, reason, seconds)
        values ('mail', 'k', 1, 'failed', 'down', 1)
        """
    )
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
        "NIGHTSHIFT_WAREHOUSE_DATABASE": settings.warehouse_database,
        "NIGHTSHIFT_METRICS_TOKEN": TOKEN,
    }
    argv = [sys.executable, "-m", "nightshift.cli", "metrics", "--port", str(port),
            "--at", "2013-03-05T09:30+00:00"]  # fmt: skip
    with subprocess.Popen(
        [*ENDS_WITH_US, *argv], env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert "http://127.0.0.1" in server.stdout.readline()
        yield f"127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_only_the_token_opens_the_metrics(target):
    url = f"http://{target}"
    assert get(f"{url}/metrics")[0] == 401
    assert get(f"{url}/metrics", "a-wrong-token")[0] == 401
    assert get(f"{url}/healthz") == (200, "alive\n")
    assert get(f"{url}/", TOKEN)[0] == 404
    # Another user of the machine, who knows the port, gets nothing either.
    port = int(target.partition(":")[2])
    assert as_stranger(lambda: attempt(port, METRICS)) == []
    status, text = get(f"{url}/metrics", TOKEN)
    assert status == 200
    assert "nightshift_up 1.0" in text
    if shutil.which("promtool"):
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running_prometheus(folder: Path, target: str):
    """Run Prometheus on loopback with our rules, scraping every two seconds; yield its address."""
    port = free_port()
    token = folder / "token"
    token.write_text(TOKEN)
    config = yaml.safe_load((RULES.parent / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / RULES.name)]
    job = config["scrape_configs"][0]
    job["authorization"]["credentials_file"] = str(token)
    job["scrape_timeout"] = "2s"
    job["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    # Minutes would make the test long: the pauses before an alert are seconds here.
    rules = re.sub(r"for: \d+[mh]", "for: 2s", RULES.read_text(encoding="utf-8"))
    (folder / RULES.name).write_text(rules)
    argv = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with subprocess.Popen(
        [*ENDS_WITH_US, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def query(address: str, expression: str) -> list[dict]:
    parameters = urllib.parse.urlencode({"query": expression})
    url = f"{address}/api/v1/query?{parameters}"
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        document = json.load(answer)
    assert document["status"] == "success", document
    return document["data"]["result"]


def wait_for(address: str, expression: str, seconds: float = 60) -> list[dict]:
    """Return the answer of a query as soon as there is one."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if result := query(address, expression):
                return result
        except OSError:
            pass
        time.sleep(0.5)
    pytest.fail(f"no answer to {expression}")


def firing(address: str, expected: set[str], seconds: float = 60) -> set[str]:
    """Return the alerts that fire as soon as all expected ones do."""
    for name in expected:
        wait_for(address, f'ALERTS{{alertstate="firing",alertname="{name}"}}', seconds)
    alerts = query(address, 'ALERTS{alertstate="firing"}')
    return {alert["metric"]["alertname"] for alert in alerts}


@needs_prometheus
def test_prometheus_scrapes_fires_and_goes_on_after_a_restart(target, tmp_path):
    with running_prometheus(tmp_path, target) as address:
        value = wait_for(address, f'nightshift_predictions_fallback_ratio{{model="{MODEL}"}}')
        assert value[0]["value"][1] == "0.25"
        before = firing(address, EXPECTED_ALERTS)
        for dashboard in DASHBOARDS:
            for expression in dashboard_queries(dashboard):
                assert query(address, expression), f"{dashboard.name}: {expression} has no answer"
        n_before = query(address, SAMPLES)[0]["value"][1]
    assert "NightshiftMetricsMissing" not in before
    assert "NightshiftWarehouseAway" not in before

    # Stopped and started: what it knew is there, and the alerts fire again.
    with running_prometheus(tmp_path, target) as address:
        wait_for(address, f"{SAMPLES} > {n_before}")
        firing(address, {"NightshiftFallbackInUse", "NightshiftIncidentCritical"})


def dashboard_queries(path: Path) -> list[str]:
    """Return the queries of a dashboard, its variables filled in as Grafana does for "All"."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    expressions = [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
    assert len(expressions) > 10
    return [expression.replace("$model", ".*") for expression in expressions]


def test_dashboards_ask_for_metrics_that_exist():
    page = (PROJECT_ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [path.stem for path in DASHBOARDS] == ["models", "night"]
    for path in [*DASHBOARDS, RULES]:
        for name in set(re.findall(r"nightshift_[a-z_]+", path.read_text(encoding="utf-8"))):
            assert f"`{name}`" in page, f"{path.name}: {name}"


def test_a_textfile_is_whole_and_readable_for_node_exporter(settings, conn, tmp_path):
    from prometheus_client import CollectorRegistry

    from nightshift.metrics.collector import WarehouseCollector
    from nightshift.metrics.exposition import TextfileError, write_textfile

    registry = CollectorRegistry()
    registry.register(WarehouseCollector(settings))
    path = tmp_path / "nightshift.prom"
    path.write_text("old")
    write_textfile(path, registry)
    assert "nightshift_up 1.0" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in tmp_path.iterdir()] == ["nightshift.prom"]
    with pytest.raises(TextfileError, match="NS-METRICS-002"):
        write_textfile(tmp_path / "absent" / "nightshift.prom", registry)


def test_nobody_on_the_network_reads_without_a_token():
    from prometheus_client import CollectorRegistry

    from nightshift.metrics.exposition import MetricsAddressError, MetricsServer

    with pytest.raises(MetricsAddressError, match="NS-METRICS-001"):
        MetricsServer(("0.0.0.0", 0), CollectorRegistry(), "")  # noqa: S104
