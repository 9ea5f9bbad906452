"""The check as cron runs it: a process of its own in which Airflow cannot be imported."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.scoring.prediction_tables import ensure_prediction_relations, predictions_target
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.warehouse.control_tables.last_good_specs import keep_spec
from nightshift.warehouse.partition_write import LoadManifest, audit, begin, publish

pytestmark = [pytest.mark.integration, pytest.mark.promise("R20"), pytest.mark.mlts("mon-1")]
BLOCKER = """
import sys
BLOCKED = {
    "airflow", "boto3", "mlflow", "dbt", "great_expectations", "lightgbm", "evidently",
}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Blocker())
sys.argv = ["nightshift", "check-freshness", *sys.argv[1:]]
from nightshift.cli.app import main
main()
"""
IN_TIME = "2013-03-05T04:30"
"""Half an hour after the deadline of partition 2013-03-04, in New York."""


def look(settings: Settings, *args: str, **changed: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    env |= {
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
        "NIGHTSHIFT_HOME": os.environ["NIGHTSHIFT_HOME"],
        "NIGHTSHIFT_WAREHOUSE_HOST": settings.warehouse_host,
        "NIGHTSHIFT_WAREHOUSE_PORT": str(settings.warehouse_port),
        "NIGHTSHIFT_WAREHOUSE_DATABASE": settings.warehouse_database,
        "NIGHTSHIFT_WAREHOUSE_USER": settings.warehouse_user,
        "NIGHTSHIFT_WAREHOUSE_PASSWORD": settings.warehouse_password.get_secret_value(),
        **changed,
    }
    return subprocess.run(
        [sys.executable, "-c", BLOCKER, *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def pager(tmp_path: Path) -> tuple[str, Path]:
    said = tmp_path / "said.jsonl"
    script = tmp_path / "pager.py"
    script.write_text(
        f"import sys\nwith open({str(said)!r}, 'a') as file:\n"
        "    print(sys.stdin.read(), file=file)\n"
    )
    return shlex.join([sys.executable, str(script)]), said


def told(said: Path) -> set[tuple[str, str]]:
    """Return code and subject of each incident that the pager was told of as opened."""
    documents = [json.loads(line) for line in said.read_text().splitlines()]
    incidents = [incident for document in documents for incident in document["incidents"]]
    return {(one["code"], one["subject"]) for one in incidents if one["transition"] == "opened"}


@pytest.fixture
def dags(tmp_path):
    """Return a copy of the folder of DAGs, specs and contracts, in which a test writes files."""
    folder = tmp_path / "dags"
    shutil.copytree(PROJECT_ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def publish_night(conn):
    """Return a function that publishes one row of a model for a night."""

    def publish_one(model: str, day: str, source: str = "champion") -> None:
        spec = load_specs(PROJECT_ROOT / "dags" / "models")[model]
        ensure_prediction_relations(conn, spec)
        write = begin(
            conn,
            [predictions_target(spec)],
            PartitionRange.of(day),
            LoadManifest(RunContext("test"), {"n": "1"}),
        )
        conn.execute(
            f"insert into predictions.{model} (partition_date, load_id, shard, flight_id,"
            " event_timestamp, score, decile, features_as_of, score_source, run_id)"
            " values (%s, %s, 0, 'f', now(), 0.5, 1, now(), %s, 'r')".encode(),
            [day, write.load_id, source],
        )
        audit(conn, write)
        publish(conn, write)

    return publish_one


@pytest.fixture
def both(publish_night):
    for model in ("flight_delayed", "arrival_delay_minutes"):
        publish_night(model, "2013-03-04")
    return publish_night


def test_all_is_well_when_every_due_partition_is_published(settings, both):
    done = look(settings, "--at", IN_TIME)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("1 champion") == 2
    assert "2013-03-05 04:00 EST" in done.stdout


def test_it_is_late_when_published_rows_are_gone(settings, both, conn):
    conn.execute("delete from predictions.flight_delayed")
    done = look(settings, "--at", IN_TIME)
    assert done.returncode == 1
    late = "[NS-FRESH-001] Late: flight_delayed of 2013-03-04 (0 of 1 rows are there)."
    assert late in done.stderr


def test_a_partition_is_not_late_before_its_deadline(settings, both):
    assert look(settings, "--at", "2013-03-06T03:59").returncode == 0
    assert look(settings, "--at", "2013-03-06T04:00").returncode == 1


def test_it_is_late_and_says_which_when_one_model_is_missing(settings, publish_night, tmp_path):
    publish_night("flight_delayed", "2013-03-04")
    publish_night("arrival_delay_minutes", "2013-03-03")
    command, said = pager(tmp_path)
    done = look(settings, "--at", IN_TIME, "--notify", NIGHTSHIFT_NOTIFY_COMMAND=command)

    assert done.returncode == 1
    assert (
        "[NS-FRESH-001] Late: arrival_delay_minutes of 2013-03-04 (due 09:00 UTC)." in done.stderr
    )
    assert "newest is 2013-03-03" in done.stdout
    assert ("NS-FRESH-001", "arrival_delay_minutes") in told(said)
    assert ("NS-FRESH-001", "flight_delayed") not in told(said)
    # The next check tells nothing again.
    n_told = len(said.read_text().splitlines())
    look(settings, "--at", IN_TIME, "--notify", NIGHTSHIFT_NOTIFY_COMMAND=command)
    assert len(said.read_text().splitlines()) == n_told


def test_it_is_late_when_a_night_before_was_never_published(settings, both, publish_night):
    publish_night("flight_delayed", "2013-02-20")
    publish_night("flight_delayed", "2013-03-01")
    publish_night("flight_delayed", "2013-03-02")
    found = look(settings, "--at", IN_TIME)
    assert found.returncode == 1, found.stderr
    # 2013-02-25 and -26 to -28 lie within the seven days; what lies before is no business of
    # tonight's.
    assert (
        "flight_delayed of 2013-02-25, 2013-02-26, 2013-02-27, 2013-02-28, 2013-03-03"
        in found.stderr
    )
    assert "arrival_delay_minutes of" not in found.stderr


def test_a_rescued_partition_is_on_time_and_shown_as_degraded(
    settings, both, publish_night, tmp_path
):
    publish_night("flight_delayed", "2013-03-05", "champion")
    publish_night("arrival_delay_minutes", "2013-03-05", "fallback_rule")
    command, said = pager(tmp_path)
    done = look(settings, "--at", "2013-03-06T05:00", "--notify", NIGHTSHIFT_NOTIFY_COMMAND=command)

    assert done.returncode == 0
    assert ("NS-SCORE-007", "arrival_delay_minutes") in told(said)
    assert "1 fallback_rule" in done.stdout
    assert "degraded" in done.stdout


def test_it_could_not_look_when_the_warehouse_is_down(settings, tmp_path):
    command, said = pager(tmp_path)
    changed = {"NIGHTSHIFT_HOME": str(tmp_path / "home"), "NIGHTSHIFT_NOTIFY_COMMAND": command}
    done = look(settings, "--notify", NIGHTSHIFT_WAREHOUSE_PORT="1", **changed)

    assert done.returncode == 2
    assert "NS-WAREHOUSE-001" in done.stderr
    assert told(said) == {("NS-WAREHOUSE-001", "freshness check")}
    assert settings.warehouse_password.get_secret_value() not in done.stderr + said.read_text()


@pytest.mark.parametrize(
    ("args", "changed"),
    [
        (["--at", "yesterday"], {}),
        ([], {"NIGHTSHIFT_DAGS_DIR": "/nowhere"}),
        ([], {"NIGHTSHIFT_WAREHOUSE_HOST": ""}),
        ([], {"NIGHTSHIFT_WAREHOUSE_DATABASE": "postgres"}),
    ],
    ids=["no instant", "no specs", "no settings", "no relations"],
)
def test_it_could_not_look_when_something_else_is_wrong(settings, args, changed):
    done = look(settings, *args, **changed)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "The check could not run.")


def test_a_failed_notification_is_reported_and_the_exit_code_stays(settings, both):
    done = look(
        settings, "--at", "2013-03-06T05:00", "--notify", NIGHTSHIFT_NOTIFY_COMMAND="/no/such/pager"
    )
    assert done.returncode == 1
    assert "[NS-FRESH-001]" in done.stderr
    assert "[NS-NOTICE-002]" in done.stderr


@pytest.mark.parametrize("name", ["models/broken.yaml", "datasets/broken.yaml"])
def test_a_wrong_file_has_an_exit_code_of_its_own_when_nothing_is_late(
    settings, both, dags, tmp_path, name
):
    (dags / name).write_text("name: broken\nunheard_of: 1\n")
    command, said = pager(tmp_path)
    changed = {"NIGHTSHIFT_DAGS_DIR": str(dags), "NIGHTSHIFT_NOTIFY_COMMAND": command}
    done = look(settings, "--at", IN_TIME, "--notify", **changed)

    assert done.returncode == 3
    assert "[NS-SPEC-003]" in done.stderr
    assert "broken.yaml" in done.stderr
    # Both good models were checked all the same.
    assert done.stdout.count("1 champion") == 2
    assert f"dags/{name}" in {subject for _, subject in told(said)}


def test_late_counts_more_than_a_wrong_file(settings, publish_night, dags, tmp_path):
    publish_night("flight_delayed", "2013-03-04")
    (dags / "models" / "broken.yaml").write_text("")
    command, said = pager(tmp_path)
    changed = {"NIGHTSHIFT_DAGS_DIR": str(dags), "NIGHTSHIFT_NOTIFY_COMMAND": command}
    done = look(settings, "--at", IN_TIME, "--notify", **changed)

    assert done.returncode == 1
    assert "[NS-FRESH-001] Late: arrival_delay_minutes" in done.stderr
    assert "[NS-SPEC-003]" in done.stderr
    codes = {code for code, _ in told(said)}
    assert {"NS-FRESH-001", "NS-SPEC-001"} <= codes


@pytest.mark.parametrize(("n_published", "exit_code"), [(2, 3), (1, 1)], ids=["on time", "late"])
def test_a_model_with_a_wrong_file_is_checked_by_its_last_good_spec(
    settings, conn, publish_night, dags, n_published, exit_code
):
    for model in ("flight_delayed", "arrival_delay_minutes")[:n_published]:
        publish_night(model, "2013-03-04")
    keep_spec(conn, load_specs(PROJECT_ROOT / "dags" / "models")["arrival_delay_minutes"])
    (dags / "models" / "arrival_delay_minutes.yaml").write_text("name: arrival_delay_minutes\n")
    done = look(settings, "--at", IN_TIME, NIGHTSHIFT_DAGS_DIR=str(dags))

    assert done.returncode == exit_code, done.stderr
    assert "not checked: none" in done.stderr
    assert ("Late: arrival_delay_minutes of 2013-03-04" in done.stderr) == (exit_code == 1)


def test_a_model_without_any_good_spec_is_named_as_not_checked(settings, publish_night, dags):
    publish_night("flight_delayed", "2013-03-04")
    (dags / "models" / "arrival_delay_minutes.yaml").write_text("name: arrival_delay_minutes\n")
    done = look(settings, "--at", IN_TIME, NIGHTSHIFT_DAGS_DIR=str(dags))
    assert done.returncode == 3
    assert "not checked: arrival_delay_minutes" in done.stderr
