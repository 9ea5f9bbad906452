"""The pages of data: all datasets with their contracts, and one with its volume and quarantine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nightshift.page.documents.requests import MissingPageError

if TYPE_CHECKING:
    from nightshift.contracts.datasets import Column, DatasetContract
    from nightshift.page.reader import PageSnapshot

VOLUME_DAYS = 366
LAYERS = ("raw/", "features/", "predictions/")
_FRESHNESS = """
select f.dataset, f.newest_partition, f.n_partitions, f.published_at, f.known_at, f.n_rows
from ops.dataset_freshness f
where starts_with(f.dataset, %(layer)s)
order by f.dataset
"""
_REFUSED = """
select dataset, sum(n_rows)::bigint as n_refused,
    sum(n_rows) filter (where state = 'open')::bigint as n_open
from quarantine.row_counts
group by dataset
"""
_DROPS = "select dataset, sum(n_drops)::bigint as n_drops from quarantine.drop_counts group by 1"
_VOLUMES = """
select partition_date, n_rows, expected_low, expected_high, published_at, known_at, load_id
from ops.dataset_volumes
where dataset = %(dataset)s
order by partition_date desc limit %(days)s
"""
_QUARANTINE = """
select partition_date, reason, column_name, state, n_rows from quarantine.row_counts
where dataset = %(name)s
order by partition_date desc, n_rows desc limit 100
"""
_REFUSED_DROPS = """
select partition_date, code, n_drops, last_at from quarantine.drop_counts
where dataset = %(name)s
order by partition_date desc limit 50
"""


def datasets_document(
    snapshot: PageSnapshot, contracts: Mapping[str, DatasetContract], layer: str
) -> dict[str, Any]:
    """Return one row per dataset of a layer: newest partition, rows, refused rows and files.

    Args:
        snapshot: The warehouse.
        contracts: By name; a dataset that was never published is listed too.
        layer: One of ``LAYERS``.
    """
    rows = {row["dataset"]: row for row in snapshot.rows(_FRESHNESS, {"layer": layer})}
    if layer == LAYERS[0]:
        for contract in contracts.values():
            row = rows.setdefault(contract.dataset, {"dataset": contract.dataset})
            row |= {"delivery": contract.delivery.value, "description": contract.description}
    # Counts only: no value of a refused row is readable with the page's role.
    refused = {row["dataset"]: row for row in snapshot.rows(_REFUSED)}
    drops = {row["dataset"]: row["n_drops"] for row in snapshot.rows(_DROPS)}
    for dataset, row in rows.items():
        # The quarantine names a dataset without its layer.
        name = dataset.removeprefix(LAYERS[0])
        counts = refused.get(name, {})
        row["n_refused"] = counts.get("n_refused", 0)
        row["n_open"] = counts.get("n_open") or 0
        row["n_refused_drops"] = drops.get(name, 0)
    ordered = [rows[dataset] for dataset in sorted(rows)]
    return {"layer": layer, "layers": list(LAYERS), "datasets": ordered}


def dataset_document(
    snapshot: PageSnapshot, contracts: Mapping[str, DatasetContract], dataset: str
) -> dict[str, Any]:
    """Return a dataset's contract, the rows of its partitions with the expected band, refusals.

    Raises:
        MissingPageError: There is no such dataset.
    """
    name = dataset.removeprefix(LAYERS[0])
    contract = contracts.get(name) if dataset.startswith(LAYERS[0]) else None
    volumes = snapshot.rows(_VOLUMES, {"dataset": dataset, "days": VOLUME_DAYS})
    if not volumes and contract is None:
        raise MissingPageError(f"There is no dataset {dataset!r}.", todo="Open the page Data.")
    # The query takes the newest ones; people read from left to right.
    volumes.reverse()
    for row in volumes:
        row["is_unusual"] = _is_unusual(row)
    return {
        "dataset": dataset,
        "contract": _contract_facts(contract),
        "volumes": volumes,
        "quarantine": snapshot.rows(_QUARANTINE, {"name": name}),
        "refused_drops": snapshot.rows(_REFUSED_DROPS, {"name": name}),
    }


def _is_unusual(row: Mapping[str, Any]) -> bool:
    # Too few days before: nothing is known to be usual.
    if row["expected_low"] is None or row["n_rows"] is None:
        return False
    return not row["expected_low"] <= row["n_rows"] <= row["expected_high"]


def _contract_facts(contract: DatasetContract | None) -> dict[str, Any] | None:
    if contract is None:
        return None
    return {
        "description": contract.description,
        "schema_version": contract.schema_version,
        "timezone": contract.timezone,
        "delivery": contract.delivery.value,
        "grain": contract.grain,
        "key": list(contract.key),
        "columns": [_column_facts(column) for column in contract.columns],
    }


def _column_facts(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type.value,
        "may_be_empty": column.is_nullable,
        "minimum": column.minimum,
        "maximum": column.maximum,
        "description": column.description,
    }
