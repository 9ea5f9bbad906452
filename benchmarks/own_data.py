"""This benchmark times a new user's own project, a shop, on half a million labels.

It times training, monitoring and an analyst's query.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.own_data [--labels 500000] [--json FILE]

Till lines of made-up customers, and the question who comes tomorrow. A customer who did not come
has a label too, so the label mart crosses versions with customers and joins sums: the shape for
which PostgreSQL expects one row and plans nested loops
(docs/adr/0036-analysts-and-the-warehouse.md). Everything runs by the ``nightshift`` command, on a
project and servers of its own; tables are analysed before anything is timed.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nightshift.settings import PROJECT_ROOT
from nightshift_local.watchdog import ends_with_us

FIRST_DAY = dt.date(2013, 1, 1)
N_DAYS = 210
N_LATER_DAYS = 3
"""Days behind the training: their predictions are scored, and judged by the monitor."""
LIMIT_SECONDS = {"train": 120, "monitor": 30, "analyst's query": 5}

CONTRACT = """
name: till_lines
description: What each customer bought, line by line.
schema_version: 1
timezone: America/New_York
delivery: daily
history_start: 2013-01-01
grain: one line of a receipt
key: [customer, sold_at, line]
event_timestamp: sold_at
columns:
  - {name: customer, type: text}
  - {name: sold_at, type: local_timestamp}
  - {name: line, type: integer}
  - {name: revenue, type: number}
"""
SOURCES = """
version: 2
sources:
  - name: shop
    schema: raw
    tables: [{name: till_lines}]
"""
STAGING = """
with
delivered as (select * from {{ source("shop", "till_lines") }}),
versions as (select * from {{ ref("stg_raw_versions") }} where dataset = 'raw/till_lines')
select
    delivered.customer, delivered.sold_at, delivered.revenue, delivered.partition_date,
    delivered.load_id, versions.known_at, versions.superseded_at
from delivered
inner join versions
    on delivered.partition_date = versions.partition_date and delivered.load_id = versions.load_id
"""
CUSTOMERS = 'select distinct customer from {{ source("shop", "till_lines") }}'
LABELS = """
with
versions as (select * from {{ ref("stg_raw_versions") }} where dataset = 'raw/till_lines'),
customers as (select * from {{ ref("int_customers") }}),
sums as (
    select partition_date, load_id, customer, count(*) as n_lines
    from {{ ref("stg_till_lines") }} group by partition_date, load_id, customer
)
select
    to_char(versions.partition_date, 'YYYY-MM-DD') || '_' || customers.customer as customer_day,
    versions.partition_date, versions.known_at as event_timestamp, versions.known_at,
    versions.superseded_at, (coalesce(sums.n_lines, 0) > 0)::integer as comes
from versions
cross join customers
left join sums
    on versions.partition_date = sums.partition_date and versions.load_id = sums.load_id
    and customers.customer = sums.customer
"""
FEATURES = """
with
versions as (
    select * from {{ ref("int_visible_versions") }}
    where dataset = 'raw/till_lines' and age_days < {{ var("lookback_days") }}
),
clocks as (select distinct partition_date, as_of from versions),
visits as (
    select versions.partition_date, lines.customer, versions.age_days,
        count(*) as n_lines, sum(lines.revenue::numeric) as revenue
    from versions
    inner join {{ ref("stg_till_lines") }} as lines
        on versions.source_partition_date = lines.partition_date \
and versions.source_load_id = lines.load_id
    group by versions.partition_date, lines.customer, versions.age_days
),
sums as (
    select partition_date, customer, min(age_days) as days_since_visit,
        count(*) filter (where age_days < 7) as visits_7d, count(*) as visits_28d,
        count(*) filter (where age_days % 7 = 6) as visits_same_weekday_28d,
        sum(n_lines) as lines_28d, sum(revenue) as revenue_28d
    from visits group by partition_date, customer
)
select
    to_char(clocks.partition_date + 1, 'YYYY-MM-DD') || '_' || customers.customer as customer_day,
    (clocks.partition_date + 1)::timestamp at time zone '{{ var("operating_timezone") }}' \
as event_timestamp,
    clocks.as_of, clocks.partition_date, {{ var("load_id") }}::bigint as load_id,
    extract(isodow from clocks.partition_date + 1)::double precision as day_of_week,
    {% for name in ["days_since_visit", "visits_7d", "visits_28d", "visits_same_weekday_28d", \
"lines_28d", "revenue_28d"] -%}
    coalesce({{ name }}, 0)::double precision as {{ name }},
    {% endfor -%}
    (coalesce(visits_28d, 0) / 28.0)::double precision as visit_rate_28d
from clocks
cross join {{ ref("int_customers") }} as customers
left join sums on clocks.partition_date = sums.partition_date and customers.customer = sums.customer
order by partition_date, customer_day
"""
NUMERIC = (
    "day_of_week",
    "days_since_visit",
    "visits_7d",
    "visits_28d",
    "visits_same_weekday_28d",
    "lines_28d",
    "revenue_28d",
    "visit_rate_28d",
)
SPEC = f"""
name: comes_tomorrow
description: Will this customer come tomorrow?
task: binary
owner: shop
runbook: docs/runbooks/README.md
deadline: "04:00"
entity: {{name: customer_day, key: customer_day}}
event_timestamp: event_timestamp
feature_view: customer
features:
  numeric: [{", ".join(NUMERIC)}]
label: {{relation: fct_visit_labels, column: comes, maturity_days: 1}}
training:
  schedule: weekly
  window_days: {N_DAYS}
  num_boost_round: 200
  params: {{learning_rate: 0.05, num_leaves: 15, min_data_in_leaf: 500}}
promotion: {{metric: roc_auc, minimum_gain_over_baseline: -0.05}}
scoring:
  fallback: {{feature: visit_rate_28d, default: 0.2}}
monitoring:
  metric: log_loss
  maximum_metric_loss: 0.2
  windows: {{n: 2, m: 3}}
"""
QUERY = """
select decile, count(*), avg(outcome::float8) from analytics.comes_tomorrow_outcomes
where is_mature group by 1 order by 1
"""


@dataclass(frozen=True)
class Project:
    """A user's project and its servers.

    Attributes:
        folder: Where dags, dbt_project and expectations are.
        home: Local state.
    """

    folder: Path
    home: Path

    def nightshift(self, *arguments: str) -> str:
        """Run the command in this project; return what it printed."""
        environment = {
            **os.environ,
            "NIGHTSHIFT_PROJECT_DIR": str(self.folder),
            "NIGHTSHIFT_HOME": str(self.home),
        }
        command = [sys.executable, "-m", "nightshift.cli", *arguments]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode:
            sys.exit(f"nightshift {' '.join(arguments)}\n{result.stdout}{result.stderr}")
        return result.stdout

    def timed(self, *arguments: str) -> float:
        """Return the seconds that a command takes, the start of its process included."""
        started = time.monotonic()
        self.nightshift(*arguments)
        return time.monotonic() - started


def write_project(folder: Path) -> None:
    """Write the shop's files next to the parts of a dbt project that every project has."""
    ignored = shutil.ignore_patterns("target", "logs", "flights", "predictions")
    shutil.copytree(PROJECT_ROOT / "dbt_project", folder / "dbt_project", ignore=ignored)
    models = folder / "dbt_project" / "models"
    columns = {
        "customer_day": "text",
        "event_timestamp": "timestamp with time zone",
        "as_of": "timestamp with time zone",
        "partition_date": "date",
        "load_id": "bigint",
        **dict.fromkeys(NUMERIC, "double precision"),
    }
    view = {
        "name": "feat_customer",
        "config": {"meta": {"entity_key": "customer_day"}},
        "columns": [{"name": name, "data_type": type_} for name, type_ in columns.items()],
    }
    unique = {"column_list": ["partition_date", "customer_day"]}
    keys = {
        "raw/till_lines": {"column_list": ["partition_date", "customer", "sold_at", "line"]},
        "features/customer": unique,
        "predictions/comes_tomorrow": unique,
    }
    files = {
        folder / "dags" / "datasets" / "till_lines.yaml": CONTRACT,
        folder / "dags" / "models" / "comes_tomorrow.yaml": SPEC,
        models / "staging" / "shop" / "_sources.yml": SOURCES,
        models / "staging" / "shop" / "stg_till_lines.sql": STAGING,
        models / "intermediate" / "shop" / "int_customers.sql": CUSTOMERS,
        models / "marts" / "shop" / "fct_visit_labels.sql": LABELS,
        models / "features" / "shop" / "feat_customer.sql": FEATURES,
        models / "features" / "shop" / "_features.yml": json.dumps(
            {"version": 2, "models": [view]}
        ),
    }
    for dataset, kwargs in keys.items():
        check = {"type": "expect_compound_columns_to_be_unique", "kwargs": kwargs}
        suite = {"name": dataset, "expectations": [check]}
        files[folder / "expectations" / f"{dataset}.json"] = json.dumps(suite)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))


def write_days(folder: Path, n_customers: int) -> int:
    """Write one file a day; who came lately comes again more often. Return the number of lines."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    habit = rng.beta(1, 3, n_customers)
    weekday = rng.normal(0, 0.3, (n_customers, 7))
    n_lines = 0
    for i in range(N_DAYS + N_LATER_DAYS):
        day = FIRST_DAY + dt.timedelta(days=i)
        chance = habit * np.exp(weekday[:, day.weekday()])
        # Everybody comes once on the first day, so that all customers are known from then on.
        comes = np.ones(n_customers, bool) if i == 0 else rng.random(n_customers) < chance
        with (folder / f"{day}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["customer", "sold_at", "line", "revenue"])
            for customer in np.flatnonzero(comes):
                at = f"{day} {9 + customer % 10:02d}:{customer % 60:02d}:00"
                for line in range(1 + rng.poisson(5)):
                    writer.writerow([f"c{customer}", at, line, f"{rng.gamma(2, 4):.2f}"])
                    n_lines += 1
    return n_lines


def measure(project: Project, n_labels: int) -> dict[str, float]:
    """Bring history, train, score and monitor; return the seconds of each step."""
    n_customers = -(-n_labels // N_DAYS)
    days = project.folder / "days"
    n_lines = write_days(days, n_customers)
    print(f"{n_lines:,} till lines, {n_customers:,} customers, {n_customers * N_DAYS:,} labels")
    last = FIRST_DAY + dt.timedelta(days=N_DAYS - 1)
    newest = last + dt.timedelta(days=N_LATER_DAYS)
    project.nightshift("up", "--only", "postgres,s3")
    project.nightshift("migrate")
    seconds = {"deliver": project.timed("deliver-history", "till_lines", str(days), "--at-cutoff")}
    seconds["backfill"] = project.timed("backfill", str(FIRST_DAY), str(newest))
    project.nightshift("psql", "-c", "analyze")
    seconds["train"] = project.timed("train", "comes_tomorrow", str(last))
    first_scored = last + dt.timedelta(days=1)
    seconds["score"] = project.timed("score", "comes_tomorrow", str(first_scored), str(newest))
    project.nightshift("psql", "-c", "analyze")
    seconds["monitor"] = project.timed("monitor", "comes_tomorrow", str(newest))
    query = ("psql", "--role", "analyst", "-c", QUERY)
    seconds["analyst's query"] = project.timed(*query)
    print(project.nightshift(*query))
    return seconds


def main() -> int:
    """Print the seconds of each step and its limit; return 1 if one is over it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=500_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightshift-own-data-") as name:
        project = Project(Path(name) / "project", Path(name) / "home")
        write_project(project.folder)
        with ends_with_us(project.home):
            seconds = measure(project, arguments.labels)
    over = [step for step, limit in LIMIT_SECONDS.items() if seconds[step] > limit]
    for step, value in seconds.items():
        limit = LIMIT_SECONDS.get(step)
        print(f"{value:8.1f} s  {step}{f' (at most {limit} s)' if limit else ''}")
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=1) + "\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
