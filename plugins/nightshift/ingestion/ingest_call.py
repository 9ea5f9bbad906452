"""What all loads of one call share: the dataset's contract, the lake, a connection and the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract, load_contract
from nightshift.contracts.run import RunContext
from nightshift.errors import TableShapeError
from nightshift.heap import bound_heap, release_unused
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.relations.alterations import refuse_alterations
from nightshift.warehouse.relations.columns import table_columns
from nightshift.warehouse.write_types import Target

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class IngestCall:
    """Connections, contract and run of one call."""

    settings: Settings
    store: ObjectStore
    conn: Connection
    contract: DatasetContract
    run: RunContext

    @property
    def target(self) -> Target:
        """Return the raw table as the write path publishes it: every version stays readable."""
        return Target(
            self.contract.dataset,
            "raw",
            self.contract.name,
            self.contract.key,
            is_versioned=True,
            may_be_empty=self.contract.minimum_rows == 0,
        )

    @property
    def contract_digest(self) -> str:
        """Return the SHA-256 of the contract, hex: drops are ingested again when it changed."""
        return contract_digest(self.contract)


@contextmanager
def open_call(settings: Settings, dataset: str, run: RunContext) -> Iterator[IngestCall]:
    """Read the contract and connect; the connection is closed at the end of the block.

    Raises:
        WarehouseError: As ``connect``.
        TableShapeError: The raw table is not that of the contract.
        RowsAlteredError: A trigger or rule that is not ours could change what is stored.
    """
    bound_heap()
    contract = load_contract(settings.datasets_dir, dataset)
    store = ObjectStore.open(settings)
    with connect(settings, run.application_name) as conn:
        _refuse_other_table(conn, contract)
        call = IngestCall(settings, store, conn, contract, run)
        # Before anything is recorded: a refusal of a file may be left out as well as a row.
        refuse_alterations(conn, [call.target])
        try:
            yield call
        finally:
            release_unused()


def _refuse_other_table(conn: Connection, contract: DatasetContract) -> None:
    """Refuse a table without the contract's columns.

    The content hash covers the columns that are there: without a column, what was published
    cannot be compared, and a rerun would call it complete.
    """
    existing = table_columns(conn, "raw", contract.name)
    problems = []
    for column in contract.columns:
        if column.name not in existing:
            problems.append(f"no {column.name}")
        elif existing[column.name].bare_type != column.type.full_sql:
            problems.append(f"{column.name} {existing[column.name].bare_type}")
    if problems:
        raise TableShapeError(
            f"raw.{contract.name} is not the table of its contract.",
            expected="each column of the contract, with its type",
            got=", ".join(problems) if existing else "no table",
            todo="Run `nightshift migrate`, which makes what is missing and names a type that"
            " differs; then rerun the task, which reads the drops again.",
        )


def contract_digest(contract: DatasetContract) -> str:
    """Return the SHA-256 of a contract, hex."""
    # Which files may come says nothing about what their rows mean: a new bound re-reads nothing.
    document = contract.model_dump_json(exclude={"limits", "maximum_backdating_days"})
    return sha256(document.encode()).hexdigest()
