"""What every rule may read: specs, contracts, the warehouse, and who depends on whom."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

from nightshift.contracts.datasets import load_contract
from nightshift.contracts.document_folder import read_folder
from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition, operating_timezone
from nightshift.lake.object_store import ObjectStore
from nightshift.scoring.deadline_fallback import is_dormant
from nightshift.warehouse.connection import warehouse_time
from nightshift.warehouse.control_tables.last_good_specs import last_good_spec

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.document_folder import DocumentFolder
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

# Another evaluator sees what this one cannot; it has gone if it has seen nothing for so long.
SEEN_ELSEWHERE_FOR = dt.timedelta(hours=1)
# A partition that was first published so soon after its day was published by its own night.
NIGHTLY_DELAY = dt.timedelta(days=8)
# A store that is asked each minute must not hold the evaluation up.
STORE_SECONDS = 3.0


class AirflowState(Protocol):
    """What the rules ask Airflow, from wherever its API can be reached."""

    def heartbeats(self) -> dict[str, dt.datetime]:
        """Return when each part of Airflow that has ever run was last heard of, UTC."""

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools with their slots."""

    def dag_ids(self) -> Container[str]:
        """Return the DAGs that it has read."""

    def import_errors(self) -> list[str]:
        """Return the files that do not load, with the last line of their traceback."""

    def paused_dags(self) -> set[str]:
        """Return the DAGs that a person has paused."""

    def failed_tasks(self, since: dt.datetime) -> list[dict[str, Any]]:
        """Return the task instances that failed since then, as Airflow describes them.

        A run that failed without a failed task, by its time limit, is one without a ``task_id``.
        """


@dataclass(frozen=True)
class EvaluationContext:
    """One evaluation.

    Attributes:
        settings: Endpoints and folders.
        conn: Autocommit connection to the warehouse.
        at: The instant that deadlines are compared with, UTC.
        airflow: Airflow's API; None where it cannot be reached from.
    """

    settings: Settings
    conn: Connection
    at: dt.datetime
    airflow: AirflowState | None = None

    @cached_property
    def spec_files(self) -> DocumentFolder[ModelSpec]:
        """Return the spec files as they are now."""
        folder = self.settings.models_dir
        return read_folder(
            folder, lambda name: _read_spec(folder, name, file_state(folder / f"{name}.yaml"))
        )

    @cached_property
    def contract_files(self) -> DocumentFolder[DatasetContract]:
        """Return the contract files as they are now."""
        folder = self.settings.datasets_dir
        return read_folder(
            folder, lambda name: _read_contract(folder, name, file_state(folder / f"{name}.yaml"))
        )

    @cached_property
    def specs(self) -> dict[str, ModelSpec]:
        """Return the models; of one whose file is wrong, its last good spec."""
        specs = dict(self.spec_files.documents)
        for name in self.spec_files.broken:
            spec = last_good_spec(self.conn, name)
            if spec is not None:
                specs[name] = spec
        return specs

    @cached_property
    def daily_contracts(self) -> list[DatasetContract]:
        """Return the contracts of datasets that come each day."""
        contracts = self.contract_files.documents.values()
        return [contract for contract in contracts if contract.is_daily]

    @cached_property
    def nightly_datasets(self) -> set[str]:
        """Return the datasets that some night has published in its time.

        A history that is loaded or replayed years later has no deadline to miss.
        """
        # One load of each dataset tells; the table has those of years.
        query = """
            select d.dataset
            from unnest(%s::text[]) as d (dataset)
            cross join lateral (
                select from ops.loads l
                where l.dataset = d.dataset and l.state = 'published'
                    and l.published_at < l.partition_date + %s::interval
                limit 1
            ) nightly
        """
        rows = self.conn.execute(query, [self.known_datasets, NIGHTLY_DELAY])
        return {dataset for (dataset,) in rows}

    @cached_property
    def known_datasets(self) -> list[str]:
        """Return the datasets of contracts and specs whose rows nights publish, by name."""
        datasets = {contract.dataset for contract in self.contract_files.documents.values()}
        for spec in self.specs.values():
            datasets |= {spec.features_dataset, spec.predictions_dataset}
        return sorted(datasets)

    @cached_property
    def store(self) -> ObjectStore:
        """Return the object store with short time limits; the rules share its client."""
        limits = {
            "s3_connect_timeout_seconds": STORE_SECONDS,
            "s3_read_timeout_seconds": STORE_SECONDS,
            # One lost packet is no outage.
            "s3_request_attempts": 2,
        }
        return ObjectStore.open(self.settings.model_copy(update=limits))

    @cached_property
    def now(self) -> dt.datetime:
        """Return the warehouse's present, UTC, which ages of records are measured by.

        Its records carry its own clock. By the clock of an evaluator that is hours behind, every
        rule would have been evaluated in the future, and none would be due.
        """
        return warehouse_time(self.conn)

    def is_expected(self, dataset: str, partition: Partition) -> bool:
        """Return whether somebody waits for a partition of a dataset.

        Nobody does in a pipeline that has never run by night and is switched off.
        """
        return dataset in self.nightly_datasets or not is_dormant(self.conn, partition)

    @cached_property
    def models_of_view(self) -> dict[str, list[str]]:
        """Return the models that read each feature view, by its dataset."""
        models: dict[str, list[str]] = defaultdict(list)
        for spec in self.specs.values():
            models[spec.features_dataset].append(spec.name)
        return models

    @cached_property
    def views_of_raw(self) -> dict[str, list[str]]:
        """Return the feature views that read each raw dataset, as their newest loads recorded."""
        views: dict[str, list[str]] = defaultdict(list)
        rows = self.conn.execute(
            """
            select v.dataset, array(select jsonb_object_keys(l.inputs))
            from unnest(%s::text[]) as v (dataset)
            cross join lateral (
                select p.partition_date, p.load_id from ops.published p
                where p.dataset = v.dataset order by p.partition_date desc limit 1
            ) newest
            join ops.loads l on l.dataset = v.dataset
                and (l.partition_date, l.load_id) = (newest.partition_date, newest.load_id)
            """,
            [list(self.models_of_view)],
        )
        built: dict[str, list[str]] = dict(rows.fetchall())
        every_raw = [contract.dataset for contract in self.contract_files.documents.values()]
        for view in self.models_of_view:
            # A view that was never built may read anything.
            inputs = [name for name in built.get(view, ()) if name.startswith("raw/")]
            for dataset in inputs or every_raw:
                views[dataset].append(view)
        return views

    def touched(
        self, tables: tuple[str, ...], models: tuple[str, ...]
    ) -> tuple[list[str], list[str], list[str]]:
        """Return the tables, models and relations of analysts that depend on some of them."""
        # Downstream along the pipeline: raw, feature view, model, analysts' relation.
        all_tables, all_models = set(tables), set(models)
        for table in tables:
            all_tables.update(self.views_of_raw.get(table, ()))
        for table in list(all_tables):
            all_models.update(self.models_of_view.get(table, ()))
            layer, _, name = table.partition("/")
            if layer == "predictions":
                all_models.add(name)
        all_tables.update(f"predictions/{model}" for model in all_models)
        consumers = [f"analytics.{model}_current" for model in sorted(all_models)]
        return sorted(all_tables), sorted(all_models), consumers

    def open_keys(self, rule_name: str, seen_since: dt.datetime | None = None) -> list[str]:
        """Return the keys of a rule's open facts.

        Args:
            rule_name: The rule.
            seen_since: Only those that somebody has seen since then; all for None.
        """
        rows = self.conn.execute(
            """
            select fact_key from ops.incidents
            where kind = %s and closed_at is null
                and last_seen_at > coalesce(%s::timestamptz, '-infinity')
            order by fact_key
            """,
            [rule_name, seen_since],
        )
        return [key for (key,) in rows]

    def owner_of(self, model: str) -> str:
        """Return the team that answers for a model; empty if it has no spec."""
        return self.specs[model].owner if model in self.specs else ""


# The caches of the readers would hide an edited file from a process that evaluates each minute.
FileState = tuple[int, int]


def file_state(path: Path) -> FileState | None:
    """Return what changes when a file is edited: its time and size; None without a file."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return (state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=512)
def _read_spec(folder: Path, name: str, _: FileState | None) -> ModelSpec:
    return load_spec.__wrapped__(folder, name)


@lru_cache(maxsize=512)
def _read_contract(folder: Path, name: str, _: FileState | None) -> DatasetContract:
    return load_contract.__wrapped__(folder, name)


def local_time(at: dt.datetime) -> str:
    """Return an instant as people of the operating zone read it."""
    return f"{at.astimezone(ZoneInfo(operating_timezone())):%Y-%m-%d %H:%M %Z}"


def describe_days(days: tuple[dt.date, ...]) -> str:
    """Return days for a sentence: all of a few, else the first, the last and their number."""
    if len(days) <= MAX_SHOWN_DAYS:
        return ", ".join(map(str, days))
    return f"{days[0]} … {days[-1]} ({len(days)} days)"


MAX_SHOWN_DAYS = 3


def deadline_of(context: EvaluationContext, models: list[str], day: dt.date) -> dt.datetime | None:
    """Return the first deadline of some models for a day that is still ahead, UTC."""
    # A deadline that is over warns nobody any more.
    deadlines = [
        context.specs[model].deadline_of(Partition(day))
        for model in models
        if model in context.specs
    ]
    return min((deadline for deadline in deadlines if deadline > context.at), default=None)
