"""A hole is filled and an outcome corrected after the nights.

What is touched, in which order, and that doing it again ends it.
"""

import datetime as dt

import pytest
from examples.flights.faults import Fault, FaultType
from examples.flights.upstream import deliver
from pydantic import SecretStr

from nightshift.cli.operations.plan import print_plan
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import PartitionRange
from nightshift.ingestion.load import ingest
from nightshift.monitoring.monitor import monitor
from nightshift.plans.making import Planner
from nightshift.reprocess.execution import reprocess
from nightshift.reprocess.missing_drops import MissingDrop
from nightshift.reprocess.plan import make_plan
from nightshift.reprocess.scope import Scope
from nightshift.scoring.pipeline import score
from nightshift.transformation.build import LookbackIncomplete, build

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.promise("R10"),
    pytest.mark.usefixtures("warm_dbt", "quick_gate"),
]

DAYS = PartitionRange.of("2013-01-01", "2013-01-03")
FIRST, SECOND, THIRD = DAYS.days
DAILY = ("flight_schedules", "flight_outcomes", "weather")
HOURS = dt.timedelta(hours=1)


@pytest.fixture
def settings(dbt_settings, tmp_path):
    """Return settings with a clock of the test's own; the parsed dbt project is the session's."""
    (tmp_path / "dbt").symlink_to(dbt_settings.home / "dbt")
    return dbt_settings.model_copy(update={"home": tmp_path, "mlflow_tracking_uri": SecretStr("")})


def published(conn):
    rows = conn.execute(
        "select p.dataset, p.partition_date, l.content_hash from ops.published p join ops.loads l"
        " using (dataset, partition_date, load_id)"
    )
    return {(dataset, day): content_hash for dataset, day, content_hash in rows}


def days_of(stale, prefix=""):
    return [one.day for one in stale if one.dataset.startswith(prefix)]


def test_only_what_a_late_drop_touches_is_redone_in_order_when_it_comes(
    settings, conn, run, capsys
):
    specs = load_specs(settings.models_dir)
    deliver(settings, DAYS, [Fault(FaultType.ABSENT, "weather", SECOND)])
    for name in ("airports", "carriers", "planes", "flight_schedules", "flight_outcomes"):
        ingest(settings, name, DAYS, run)
    for day in (FIRST, THIRD):
        ingest(settings, "weather", PartitionRange.of(str(day)), run)
    night = PartitionRange.of(str(FIRST))
    build(settings, night, run)
    for spec in specs.values():
        score(settings, spec, night, run)
        monitor(settings, spec, night, run)
    with pytest.raises(LookbackIncomplete):
        build(settings, PartitionRange.of(str(THIRD)), run)

    plan = make_plan(settings, conn, Scope())
    assert plan.is_empty
    assert plan.missing_drops == (MissingDrop("weather", SECOND, "nothing landed", 2),)

    # The hole is filled: the two nights that waited, and nothing of the first.
    deliver(
        settings,
        PartitionRange.of(str(SECOND)),
        [Fault(FaultType.LATE, "weather", SECOND, delay=72 * HOURS)],
        ("weather",),
    )
    plan = make_plan(settings, conn, Scope())
    print_plan(Planner(settings, conn).redo(Scope()))
    assert [(drop.dataset, drop.partition) for drop in plan.late] == [("weather", SECOND)]
    assert (plan.missing_drops, days_of(plan.features)) == ((), [SECOND, THIRD])
    assert days_of(plan.predictions, "predictions/flight_delayed") == [SECOND, THIRD]
    assert "was never built; its look-back is complete" in capsys.readouterr().out

    before, said = published(conn), []
    result = reprocess(settings, Scope(), run, said.append)
    assert [line.split()[0] for line in said] == [
        "ingest",
        "transform",
        *["score", "monitor", "monitor"] * len(specs),
    ]
    assert result.left == ()
    changed = {(change.dataset, change.day) for change in result.changes}
    assert {(key, h) for key, h in published(conn).items() if key not in changed} == set(
        before.items()
    )
    assert ("features/flight", SECOND) in changed
    assert ("features/flight", THIRD) in changed
    assert ("features/flight", FIRST) not in changed
    for name in specs:
        assert {
            (f"predictions/{name}", SECOND),
            (f"predictions/{name}", THIRD),
            (f"monitoring/{name}", THIRD),
        } <= changed
    assert make_plan(settings, conn, Scope()).is_empty

    # An outcome of the first day is corrected, known a day later: the first night knew nothing of
    # it and stays.
    correction = Fault(
        FaultType.CORRECTION,
        "flight_outcomes",
        FIRST,
        column="arrival_delay_minutes",
        value="500",
        n_rows=3,
        delay=20 * HOURS,
    )
    deliver(settings, PartitionRange.of(str(FIRST)), [correction], ("flight_outcomes",))
    plan = make_plan(settings, conn, Scope())
    assert [(drop.dataset, drop.partition) for drop in plan.late] == [("flight_outcomes", FIRST)]
    assert days_of(plan.features) == [SECOND, THIRD]
    before = published(conn)
    result = reprocess(settings, Scope("flight_outcomes", FIRST, FIRST), run, said.append)
    changed = {(change.dataset, change.day) for change in result.changes}
    assert ("raw/flight_outcomes", FIRST) in changed
    assert {("features/flight", SECOND), ("features/flight", THIRD)} <= changed
    assert {day for dataset, day in changed if not dataset.startswith("raw/")} == {SECOND, THIRD}
    assert reprocess(settings, Scope(), run, said.append).n_done == 0
