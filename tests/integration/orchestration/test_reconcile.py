"""Which partitions count as stranded between two stages of a night."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from nightshift.orchestration.reconcile import Link, asset_chain, stranded_partitions
from nightshift.settings import Settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.promise("R16")]

DAY = dt.date(2013, 1, 5)
SCORE = Link(("features/flight",), "predictions/flight_delayed")
TRANSFORM = Link(("raw/outcomes", "raw/weather"), "features/flight")
LONG_AGO, JUST_NOW, LAST_MONTH = "1 hour", "1 minute", "30 days"


def load(
    conn: Connection,
    dataset: str,
    ago: str = LONG_AGO,
    *,
    actor: str = "airflow",
    run: str = "a_dag",
    is_published: bool = True,
    day: dt.date = DAY,
) -> None:
    """Record a load that was begun some time ago, and that readers see since then if it is
    published."""
    row = conn.execute("select nextval('ops.load_id_seq')").fetchone()
    assert row is not None
    at = dt.datetime.now(dt.UTC)
    values = {
        "dataset": dataset,
        "day": day,
        "load_id": row[0],
        "ago": ago,
        "at": at,
        "actor": actor,
        "run_id": f"{run}/2013-01-05/a_task",
    }
    conn.execute(
        """
        insert into ops.loads (
            dataset, partition_date, load_id, token, state, run_id, attempt, actor, code_version,
                inputs, inputs_digest, started_at)
        values (%(dataset)s, %(day)s, %(load_id)s, 1, 'staged', %(run_id)s, 1, %(actor)s, 'c',
            '{}', 'd', %(at)s - %(ago)s::interval)
        """,
        values,
    )
    if is_published:
        conn.execute(
            "insert into ops.published (dataset, partition_date, load_id, token, published_at)"
            " values (%(dataset)s, %(day)s, %(load_id)s, 1, %(at)s - %(ago)s::interval)",
            values,
        )


def is_stranded(conn: Connection, link: Link = SCORE) -> bool:
    return [partition.day for partition in stranded_partitions(conn, link)] == [DAY]


def test_a_partition_is_stranded_when_nobody_scores_its_features(conn: Connection) -> None:
    load(conn, "features/flight")
    assert is_stranded(conn)


@pytest.mark.parametrize(
    ("actor", "ago"),
    [("cli:a_person", LONG_AGO), ("airflow", JUST_NOW), ("airflow", LAST_MONTH)],
    ids=["by hand", "fresh", "old"],
)
def test_it_is_not_when_upstream_was_published_by_hand_just_now_or_long_ago(
    conn: Connection, actor: str, ago: str
) -> None:
    load(conn, "features/flight", ago, actor=actor)
    assert not is_stranded(conn)


def test_only_tonight_is_woken_when_nobody_has_built_the_new_view_yet(conn: Connection) -> None:
    nights = [DAY - dt.timedelta(days=days) for days in range(4)]
    for night in nights:
        load(conn, "features/flight", day=night)
    assert is_stranded(conn)


def test_nights_before_the_first_of_a_view_are_left_to_a_person(conn: Connection) -> None:
    nights = [DAY - dt.timedelta(days=days) for days in range(4)]
    for night in nights:
        load(conn, "features/flight", day=night)
    load(conn, "predictions/flight_delayed", day=nights[2])
    found = [partition.day for partition in stranded_partitions(conn, SCORE)]
    assert found == [nights[1], nights[0]]


def test_it_is_not_when_downstream_is_published(conn: Connection) -> None:
    load(conn, "features/flight")
    load(conn, "predictions/flight_delayed")
    assert not is_stranded(conn)


def test_it_is_when_only_a_rescue_has_published_downstream(conn: Connection) -> None:
    load(conn, "features/flight")
    load(conn, "predictions/flight_delayed", run="rescue__flight_delayed")
    assert is_stranded(conn)


@pytest.mark.parametrize(("begun", "expected"), [(JUST_NOW, False), (LONG_AGO, True)])
def test_it_is_not_while_somebody_works_on_it(conn: Connection, begun: str, expected: bool) -> None:
    load(conn, "features/flight")
    load(conn, "predictions/flight_delayed", begun, is_published=False)
    assert is_stranded(conn) is expected


def test_it_is_only_when_all_of_upstream_is_there(conn: Connection) -> None:
    load(conn, "raw/outcomes")
    assert not is_stranded(conn, TRANSFORM)
    load(conn, "raw/weather")
    assert is_stranded(conn, TRANSFORM)


def test_the_chain_goes_from_raw_data_to_the_verdict_of_each_model(settings: Settings) -> None:
    assert [(link.upstream, link.downstream) for link in asset_chain(settings)] == [
        (("raw/flight_outcomes", "raw/flight_schedules", "raw/weather"), "features/flight"),
        (("features/flight",), "predictions/arrival_delay_minutes"),
        (("predictions/arrival_delay_minutes",), "monitoring/arrival_delay_minutes"),
        (("features/flight",), "predictions/flight_delayed"),
        (("predictions/flight_delayed",), "monitoring/flight_delayed"),
    ]
