"""Label relations that need zero rows are read in seconds, by every stage and every login."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.databases import own_database
from tests.integration.training.conftest import tiny_spec

from nightshift.contracts.partitions import Partition
from nightshift.monitoring import outcomes
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.settings import Settings
from nightshift.training.training_set import build_training_set
from nightshift.warehouse.analysts.grants import ANALYST, apply_grants

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

N_CUSTOMERS, N_DAYS = 2_000, 210
FIRST_DAY = dt.date(2020, 1, 1)
NIGHT = Partition(FIRST_DAY + dt.timedelta(days=N_DAYS - 1))
SLOWEST_SECONDS = 120
"""Far above what hash joins take on a busy machine; nested loops do not end within ten minutes."""

MART = """
create view marts.fct_parcel_labels as
with versions as (
    select partition_date, load_id, known_at, superseded_at
    from ops.raw_versions where dataset = 'raw/till_lines'
),
customers as (select distinct customer from raw.till_lines),
sums as (
    select partition_date, load_id, customer, count(*) as n_lines
    from raw.till_lines join versions using (partition_date, load_id)
    group by partition_date, load_id, customer
)
select v.partition_date, v.known_at, v.superseded_at, v.known_at as event_timestamp,
    v.partition_date || '-' || c.customer as parcel_id,
    case when coalesce(s.n_lines, 0) > 0 then 1 else 0 end as is_late
from versions v
cross join customers c
left join sums s
    on s.partition_date = v.partition_date and s.load_id = v.load_id and s.customer = c.customer
"""
"""A customer who did not come has a label too: versions, crossed with customers, sums joined."""


@pytest.fixture
def settings(session_settings: Settings, template_database: str) -> Iterator[Settings]:
    """Return settings of a database without the parcels of the other tests."""
    with own_database(session_settings, template_database) as own:
        yield own


@pytest.fixture
def shop(conn):
    """Return an analysed warehouse of 420,000 labels, with features and predictions of them."""
    conn.execute(
        f"""
        create table raw.till_versions as
            select date '{FIRST_DAY}' + i as partition_date, 1::bigint as load_id,
                timestamptz '{FIRST_DAY} 05:00+00' + (i + 1) * interval '1 day' as known_at
            from generate_series(0, {N_DAYS - 1}) i;
        create table raw.till_lines as
            select v.partition_date, v.load_id, 'c' || c as customer, k as line
            from raw.till_versions v, generate_series(1, {N_CUSTOMERS}) c, generate_series(1, 2) k
            where c = 1 or (c * 7919 + (v.partition_date - date '{FIRST_DAY}') * 104729) % 10 < 3;
        insert into raw.till_lines
            select date '{FIRST_DAY}', 1, 'c' || c, 1 from generate_series(1, {N_CUSTOMERS}) c;
        create table features.feat_parcel as
            select v.partition_date, 1::bigint as load_id,
                (v.partition_date + 1) || '-c' || c as parcel_id,
                v.known_at as event_timestamp, v.known_at as as_of, random() as wind,
                random() as weight, c % 2 = 0 as is_fragile, 0.3::float8 as late_rate_7d,
                (array['A', 'B', 'C'])[1 + c % 3] as carrier
            from raw.till_versions v, generate_series(1, {N_CUSTOMERS}) c;
        insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt,
                actor, code_version, inputs, inputs_digest, content_hash, known_at)
            select d, partition_date, 1, 1, 'published', 'r', 1, 'a', 'c', '{{}}', 'i', 'h',
                known_at
            from raw.till_versions,
                unnest(array['features/parcel', 'predictions/parcel_late', 'raw/till_lines']) d;
        create index on raw.till_lines (partition_date, load_id);
        insert into ops.published (dataset, partition_date, load_id, token)
            select dataset, partition_date, load_id, 1 from ops.loads where run_id = 'r'
        """.encode()
    )
    conn.execute(MART.encode())
    spec = shop_spec()
    ensure_prediction_relations(conn, spec)
    conn.execute(
        "insert into predictions.parcel_late (partition_date, load_id, shard, parcel_id,"
        " event_timestamp, score, probability, decile, is_positive, features_as_of, score_source,"
        " run_id) select partition_date, 1, 0, parcel_id, as_of, 0.5, 0.5, 1 + (random() * 9)::int,"
        " false, as_of, 'champion', 'r' from features.feat_parcel where partition_date >= %s",
        [FIRST_DAY + dt.timedelta(days=N_DAYS - 8)],
    )
    conn.execute("vacuum analyze")
    return conn


def shop_spec():
    spec = tiny_spec()
    training = spec.training.model_copy(update={"window_days": 300})
    return spec.model_copy(update={"training": training})


def loops(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nested loops that compare rows; a cross join cannot be anything else."""
    is_lookup = any("Index Cond" in part for part in plan.get("Plans", ()))
    if plan["Node Type"] == "Nested Loop" and ("Join Filter" in plan or is_lookup):
        yield plan
    for part in plan.get("Plans", ()):
        yield from loops(part)


def explained(conn, query: str) -> dict[str, Any]:
    row = conn.execute(f"explain (format json) {query}".encode()).fetchone()
    return dict(row[0][0]["Plan"])


@pytest.fixture
def readers(shop, settings):
    """Return sessions of the analyst and of a member login that nobody gave settings."""
    user, password = settings.warehouse_admin_user, settings.warehouse_admin_password
    place = {"host": settings.warehouse_host, "port": settings.warehouse_port}
    place |= {"dbname": settings.warehouse_database, "autocommit": True}
    secret = settings.analyst_password.get_secret_value()
    login = f"member_{settings.warehouse_database[-12:]}"
    with psycopg.connect(**place, user=user, password=password.get_secret_value()) as admin:
        apply_grants(admin)
        admin.execute(f"create role {login} login password '{secret}'".encode())
        admin.execute(f"grant {ANALYST} to {login}".encode())
        with (
            psycopg.connect(**place, user=ANALYST, password=secret) as analyst,
            psycopg.connect(**place, user=login, password=secret) as member,
        ):
            yield [analyst, member]
        admin.execute(f"drop owned by {login}; drop role {login}".encode())


README_QUERY = """
select decile, count(*), avg(outcome) from analytics.parcel_late_outcomes where is_mature group by 1
"""


def test_outcomes_are_read_by_any_login_when_the_tables_are_analysed(shop, readers, record_figure):
    for reader in readers:
        begun = time.monotonic()
        rows = reader.execute(README_QUERY).fetchall()
        seconds = time.monotonic() - begun

        assert sum(row[1] for row in rows) == 6 * N_CUSTOMERS
        assert all(0 <= row[2] <= 1 for row in rows)
        assert seconds < SLOWEST_SECONDS
        record_figure("README's query of 420,000 labels, s", seconds)


def test_the_outcomes_view_plans_labels_without_nested_loops(shop):
    """Whatever the planner thinks of them; and the check sees loops where there are some."""
    query = "select prosrc, proconfig from pg_proc where proname = 'parcel_late_labels'"
    labels, settings = shop.execute(query).fetchone()
    shop.execute("set enable_hashjoin = off; set enable_mergejoin = off")
    assert list(loops(explained(shop, labels))) != []

    shop.execute("reset enable_hashjoin; reset enable_mergejoin")
    for setting in settings:
        shop.execute("select set_config(%s, %s, false)", setting.split("=", 1))
    assert "enable_nestloop=off" in settings
    assert list(loops(explained(shop, labels))) == []
    view = explained(shop, "select * from analytics.parcel_late_outcomes")
    assert "Function Scan" in json.dumps(view)


def test_stages_read_labels_when_the_tables_are_analysed(shop, settings, run):
    begun = time.monotonic()
    training_set = build_training_set(settings, shop_spec(), NIGHT, run)
    as_of = dt.datetime(2021, 1, 1, tzinfo=dt.UTC)
    rows = outcomes.read_outcomes(settings, shop, shop_spec(), NIGHT, as_of)
    count = outcomes.count_labels(shop, shop_spec(), NIGHT, as_of)

    assert training_set.n_rows == (N_DAYS - 2) * N_CUSTOMERS
    assert rows is not None
    assert (rows.num_rows, count.n_labels) == (N_CUSTOMERS, N_CUSTOMERS)
    assert time.monotonic() - begun < SLOWEST_SECONDS
