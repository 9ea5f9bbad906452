"""The rules over a real scored partition: none is broken by itself, each real fault opens one."""

from __future__ import annotations

import datetime as dt
import shutil

import pytest
from tests.integration.scoring.conftest import DAY, publish_features

from nightshift.cli.services.status import model_row
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.incidents.acts import snooze
from nightshift.incidents.context import EvaluationContext
from nightshift.incidents.evaluation import evaluate
from nightshift.incidents.overview import current_overview
from nightshift.incidents.records import (
    Incident,
    find_incident,
    incident_events,
    open_incidents,
    read_health,
)
from nightshift.incidents.why_not import explain
from nightshift.scoring.pipeline import score
from nightshift.settings import PROJECT_ROOT, Settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promise("R1"),
    pytest.mark.usefixtures("quick_gate"),
]

NEXT_DAY = PartitionRange.of("2013-07-02")
AFTER_THE_DEADLINE = dt.datetime(2013, 7, 3, 12, tzinfo=dt.UTC)


class Night:
    """A scored partition, and what its incidents are."""

    def __init__(self, settings, spec, run, registry):
        self.settings, self.spec, self.run, self.registry = settings, spec, run, registry
        self.conn = registry.conn

    def look(self, at: dt.datetime | None = None) -> list[Incident]:
        """Evaluate as if no rule had a pause, and return what is broken."""
        self.conn.execute("delete from ops.incident_rules")
        evaluation = evaluate(self.settings, at=at)
        assert evaluation.failed_rules == ()
        return open_incidents(self.conn)

    def codes(self, at: dt.datetime | None = None) -> list[str]:
        return [incident.code for incident in self.look(at)]

    def why_not(self, day: str, at: dt.datetime = AFTER_THE_DEADLINE):
        context = EvaluationContext(self.settings, self.conn, at)
        return explain(context, self.spec, Partition.parse(day))

    def fail(self, dag_id: str, task_id: str, outcome: str, day: str = "2013-07-01") -> None:
        """Record a try that has failed for good, as a task does."""
        self.conn.execute(
            """
            insert into ops.task_tries (
                dag_id, dag_run_id, task_id, map_index, attempt, partition_date, ended_at,
                outcome, is_final
            )
            values (%s, 'r', %s, -1, 1, %s, clock_timestamp(), %s, true)
            """,
            [dag_id, task_id, day, outcome],
        )


@pytest.fixture
def night(registry, scoring_settings, spec, run, tmp_path) -> Night:
    models = tmp_path / "dags" / "models"
    models.mkdir(parents=True)
    (models / f"{spec.name}.yaml").write_text(spec.model_dump_json())
    settings = Settings(**(dict(scoring_settings) | {"dags_dir": models.parent}))
    publish_features(registry.conn)
    registry.promote("2013-07-01")
    score(settings, spec, DAY, run)
    return Night(settings, spec, run, registry)


def test_nothing_is_broken_in_a_quiet_night_and_everything_is_healthy(night):
    assert night.look() == []
    assert {health.health for health in read_health(night.conn)} == {"healthy"}
    overview, problem = current_overview(night.settings, AFTER_THE_DEADLINE, None)
    (model,) = overview.models
    assert (model.source, model.champion, model.health, problem) == ("champion", 1, "healthy", "")
    assert str(model.published) == "2013-07-01"
    assert model.late == ()


@pytest.mark.parametrize(
    ("table", "dataset"),
    [
        ("predictions.parcel_late", "predictions/parcel_late"),
        ("features.feat_parcel", "features/parcel"),
    ],
)
def test_lost_rows_are_an_incident_until_they_are_published_again(night, table, dataset):
    night.conn.execute(f"delete from {table} where parcel_id = '2013-07-01-1'".encode())
    (incident,) = night.look()
    assert (incident.code, incident.subject, incident.severity) == (
        "NS-WRITE-007",
        dataset,
        "critical",
    )
    assert "49 of 50 rows are there" in incident.what
    assert "parcel_late" in incident.touched_models
    if dataset.startswith("predictions/"):
        assert incident.command == "nightshift score parcel_late 2013-07-01"
        score(night.settings, night.spec, DAY, night.run)
        assert night.look() == []
        assert find_incident(night.conn, incident.incident_id).state == "closed"


def test_a_snoozed_loss_of_rows_comes_back_when_more_of_the_same_day_are_lost(night):
    night.conn.execute("delete from predictions.parcel_late where parcel_id = '2013-07-01-1'")
    (incident,) = night.look()
    snooze(night.conn, incident.incident_id, dt.timedelta(hours=2), "cli:ann", "I look at it")
    (same,) = night.look()
    assert same.state == "snoozed"
    night.conn.execute("delete from predictions.parcel_late where parcel_id = '2013-07-01-2'")
    (worse,) = night.look()
    assert (worse.incident_id, worse.state) == (incident.incident_id, "open")
    events = [event.event for event in incident_events(night.conn, incident_id=worse.incident_id)]
    assert events == ["opened", "snoozed", "worsened", "woken"]


def test_a_partition_whose_pointer_is_gone_is_missed_and_explained(night):
    night.conn.execute("delete from ops.published where dataset = 'predictions/parcel_late'")
    (incident,) = night.look()
    assert (incident.code, incident.subject) == ("NS-WRITE-007", "predictions/parcel_late")
    why = night.why_not("2013-07-01")
    assert (why.code, why.command) == ("NS-WRITE-007", incident.command)
    score(night.settings, night.spec, DAY, night.run)
    assert night.look() == []


def test_a_champion_without_a_decision_is_an_incident(night):
    night.conn.execute("alter table ml.promotions disable trigger user")
    night.conn.execute("delete from ml.promotions")
    (incident,) = night.look()
    assert (incident.code, incident.kind) == ("NS-REGISTRY-006", "lost champions")
    # A decision that only refuses the version makes it no champion.
    night.conn.execute(
        "insert into ml.promotions (model, version, verdict, partition_date, effective_partition,"
        " reasons, numbers, run_id, actor)"
        " values ('parcel_late', 1, 'refused', '2013-07-01', '2013-07-01', '{}', '{}', 'r', 'a')"
    )
    assert [each.code for each in night.look()] == ["NS-REGISTRY-006"]


def test_lost_rows_stay_an_incident_when_their_week_is_over(night):
    night.conn.execute("delete from predictions.parcel_late where parcel_id = '2013-07-01-1'")
    (incident,) = night.look()
    night.conn.execute("update ops.published set published_at = now() - interval '8 days'")
    (same,) = night.look()
    assert (same.incident_id, same.n_seen) == (incident.incident_id, 2)


@pytest.mark.parametrize("n_faults", [0, 1])
def test_a_severe_loss_that_broken_input_blocks_is_an_incident(night, n_faults):
    night.conn.execute(
        """
        with load as (
            insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt,
                actor, code_version, inputs, inputs_digest)
            values ('monitoring/parcel_late', '2013-07-01', 9, 1, 'published', 'r', 1, 'a', 'c',
                '{}', 'd') returning dataset, partition_date, load_id, token
        ), published as (
            insert into ops.published (dataset, partition_date, load_id, token) select * from load
        )
        insert into monitoring.verdicts (partition_date, load_id, model, drift_status,
            score_drift_status, performance_status, severe_loss_status, n_features, n_drifted,
            metric, n_labels, evaluated_partition, breached_days, in_cooldown, has_triggered,
            reasons, n_faults)
        values ('2013-07-01', 9, 'parcel_late', 'ok', 'ok', 'breached', 'breached', 3, 0, 'roc_auc',
            50, '2013-06-29', '{}', false, false, '[]', %s)
        """,
        [n_faults],
    )
    blocked = [i for i in night.look() if i.kind == "blocked evidence"]
    assert len(blocked) == n_faults
    assert all("broken" in incident.what for incident in blocked)


def test_a_dropped_view_of_analysts_is_an_incident_until_a_scoring_makes_it(night):
    night.conn.execute("drop view analytics.parcel_late_current")
    (incident,) = night.look()
    assert (incident.code, incident.command) == ("NS-WAREHOUSE-010", "nightshift migrate")
    assert "analytics.parcel_late_current" in incident.what

    score(night.settings, night.spec, DAY, night.run)
    assert night.look() == []


def test_a_partition_without_its_champion_is_an_incident_until_it_is_scored_again(night):
    conn = night.conn
    publish_features(conn, NEXT_DAY)
    bad = night.registry.promote("2013-07-02", seed=2)
    before = night.registry.store.get(bad.model_key)
    night.registry.corrupt(bad)
    score(night.settings, night.spec, NEXT_DAY, night.run)
    cause, incident = sorted(night.look(), key=lambda each: each.incident_id)
    assert (incident.code, incident.kind, incident.health) == (
        "NS-SCORE-007",
        "fallback in use",
        "degraded",
    )
    # The cause has the smaller number: its notice comes first.
    assert (cause.code, cause.kind) == ("NS-LAKE-004", "champion files")
    assert cause.command == f"nightshift train parcel_late {bad.partition}"
    assert incident.command == "nightshift score parcel_late 2013-07-02"
    assert "NS-LAKE-004" in incident.what
    words = {health.subject: health.parts for health in read_health(conn)}
    assert words["parcel_late"] == {"scores": "degraded", "model": "degraded"}
    assert "NS-SCORE-007" in night.why_not("2013-07-02").code

    night.registry.store.client.put_object(
        Bucket=night.settings.s3_bucket, Key=bad.model_key, Body=before, ChecksumAlgorithm="SHA256"
    )
    score(night.settings, night.spec, NEXT_DAY, night.run)
    assert night.look() == []


def test_a_late_model_is_critical_after_its_deadline_and_closes_when_it_is_published(night):
    # The rescue runs an hour before four o'clock in New York; eight UTC is the deadline.
    before = dt.datetime(2013, 7, 3, 7, 30, tzinfo=dt.UTC)
    (incident,) = night.look(before)
    assert (incident.code, incident.severity) == ("NS-FRESH-001", "warning")
    assert [str(day) for day in incident.partitions] == ["2013-07-02"]
    (in_time,) = current_overview(night.settings, before, None)[0].models
    assert in_time.late == ()
    (same,) = night.look(AFTER_THE_DEADLINE)
    assert (same.incident_id, same.severity) == (incident.incident_id, "critical")
    (late,) = current_overview(night.settings, AFTER_THE_DEADLINE, None)[0].models
    assert [str(day) for day in late.late] == ["2013-07-02"]
    assert model_row(late)[2] == "2013-07-01, late: 2013-07-02"
    assert same.command == "nightshift rescue parcel_late --night 2013-07-02"

    publish_features(night.conn, NEXT_DAY)
    score(night.settings, night.spec, NEXT_DAY, night.run)
    assert night.look(AFTER_THE_DEADLINE) == []


def test_a_task_without_a_try_left_is_an_incident_until_its_work_is_done(night):
    night.fail("score__parcel_late", "begin", "NS-GATE-002")
    night.fail("score__parcel_late", "publish", "ZeroDivisionError")
    night.fail("monitor__parcel_late", "measure", "NS-MONITOR-001")
    incidents = {incident.code: incident for incident in night.look()}
    assert set(incidents) == {"NS-GATE-002", "NS-CORE-000", "NS-MONITOR-001"}
    command = "dags clear score__parcel_late --partition-key 2013-07-01 --only-failed --yes"
    assert incidents["NS-GATE-002"].command == f"nightshift airflow {command}"
    assert "ZeroDivisionError" in incidents["NS-CORE-000"].what
    assert incidents["NS-MONITOR-001"].severity == "info"

    # By hand, so no task of Airflow's turns green.
    score(night.settings, night.spec, DAY, night.run)
    assert night.codes() == ["NS-MONITOR-001"]
    night.conn.execute(
        """
        insert into ops.task_tries (
            dag_id, dag_run_id, task_id, map_index, attempt, partition_date, ended_at, outcome
        )
        values (
            'monitor__parcel_late', 'r', 'measure', -1, 2, '2013-07-01', clock_timestamp(),
            'success')
        """
    )
    assert night.codes() == []


def test_a_try_that_airflow_repeats_is_no_incident(night):
    night.fail("score__parcel_late", "begin", "NS-LAKE-001")
    night.conn.execute("update ops.task_tries set is_final = false")
    assert night.look() == []


def test_wrong_files_hide_nothing_of_other_models(night):
    folder = night.settings.models_dir
    (folder / "empty.yaml").write_text("")
    night.conn.execute("drop view analytics.parcel_late_current")
    assert sorted(night.codes()) == ["NS-SPEC-001", "NS-WAREHOUSE-010"]
    (folder / "empty.yaml").unlink()
    assert night.codes() == ["NS-WAREHOUSE-010"]


def test_why_not_answers_for_a_partition_in_one_paragraph(night):
    assert night.why_not("2013-07-01").is_published
    assert "50 by champion" in night.why_not("2013-07-01").paragraph

    ahead = night.why_not("2013-07-05")
    assert "Its day is not over" in ahead.paragraph
    assert ahead.command == ""

    publish_features(night.conn, NEXT_DAY)
    lost = night.why_not("2013-07-02")
    assert (lost.code, lost.command) == (
        "NS-INCIDENT-003",
        "nightshift score parcel_late 2013-07-02",
    )
    night.fail("score__parcel_late", "begin", "NS-GATE-002", "2013-07-02")
    failed = night.why_not("2013-07-02")
    assert failed.code == "NS-GATE-002"
    assert "failed with NS-GATE-002" in failed.paragraph
    assert "Its deadline was" in failed.paragraph


def test_why_not_gives_no_command_for_a_day_before_the_history(night):
    datasets = night.settings.datasets_dir
    datasets.mkdir()
    shutil.copy(PROJECT_ROOT / "dags" / "datasets" / "weather.yaml", datasets)
    before = night.why_not("2012-12-31")
    assert (before.code, before.command) == ("NS-TIME-003", "")
    assert "before the history, which begins on 2013-01-01" in before.paragraph
    assert "deadline" not in before.paragraph
