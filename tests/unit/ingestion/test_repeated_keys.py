"""Copies that are dropped while rows come in change nothing of what is decided in the end."""

from __future__ import annotations

import datetime as dt
import random

import numpy as np
import pyarrow as pa
import pytest
from tests.integration.ingestion.hostile_world import CONTRACT

from nightshift.contracts.datasets import DatasetContract
from nightshift.ingestion.rows.refused_rows import RefusedRows, RefusedRowsFile
from nightshift.ingestion.rows.repeated_keys import (
    count_conflicts,
    drop_copies,
    resolve_repeated_keys,
)
from nightshift.ingestion.rows.row_check import reasons_by_file
from nightshift.ingestion.rows.typed_rows import DUPLICATE, GOOD, TypedRows, type_rows
from nightshift.lake.drops import DropManifest
from nightshift.quality.contract_check import DeliveredFile

DAY = dt.date(2013, 11, 3)
"""On which the clock of New York shows an hour twice."""
TIMES = ["00:30", "01:30", "01:30-04:00", "01:30-05:00", "10:00"]


@pytest.fixture(scope="module")
def contract() -> DatasetContract:
    return DatasetContract.model_validate(CONTRACT | {"history_start": dt.date(2013, 1, 1)})


def typed(contract: DatasetContract, rows: list[tuple[str, str, str]], first: int = 1) -> TypedRows:
    shop, hour_at, visitors = map(list, zip(*rows, strict=True))
    strings = pa.table(
        {
            "shop": shop,
            "hour_at": hour_at,
            "visitors": visitors,
            "valid_to": pa.nulls(len(rows), pa.string()),
        }
    )
    numbers = np.arange(first, first + len(rows))
    drop = DropManifest(
        dataset="visits",
        partition=DAY,
        delivered_at=dt.datetime(2013, 11, 4, tzinfo=dt.UTC),
        data_key="a.csv",
        sha256="0" * 64,
        n_rows=len(rows),
        schema_version=1,
    )
    return type_rows(contract, [drop], [DeliveredFile(strings, numbers, (), ())])


def random_rows(seed: int, n: int = 60) -> list[tuple[str, str, str]]:
    dice = random.Random(seed)  # noqa: S311
    return [
        (dice.choice("ab"), f"{DAY} {dice.choice(TIMES)}", str(dice.randrange(3))) for _ in range(n)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_the_decision_is_that_of_all_rows_at_once(contract: DatasetContract, seed: int) -> None:
    rows = random_rows(seed)
    together = typed(contract, rows)
    resolve_repeated_keys(contract, together)

    copies = [np.empty(0, dtype=np.int64)]
    kept: list[TypedRows] = []
    for start in range(0, len(rows), 7):
        kept.append(typed(contract, rows[start : start + 7], start + 1))
        distinct, copied = drop_copies(TypedRows.concat(kept))
        kept = [distinct]
        copies.append(copied)
    apart = kept[0]
    lower_bound = count_conflicts(contract, apart).total()
    resolve_repeated_keys(contract, apart)

    n_copies = sum(map(len, copies)) + int(np.sum(apart.verdict == DUPLICATE))
    assert n_copies == np.sum(together.verdict == DUPLICATE)
    assert reasons_by_file([()], apart) == reasons_by_file([()], together)
    assert lower_bound <= reasons_by_file([()], together)[0].total()
    good = apart.row_numbers[apart.verdict == GOOD].tolist()
    assert good == together.row_numbers[together.verdict == GOOD].tolist()


def test_refused_rows_come_back_from_the_disk_as_they_were(contract: DatasetContract, tmp_path):
    blocks = [
        typed(contract, [("a", "x", "1"), ("b", f"{DAY} 10:00", "many")], first) for first in (1, 3)
    ]
    expected = [row for block in blocks for row in RefusedRows((), block)]
    kept = RefusedRowsFile(tmp_path / "drops")
    assert list(kept) == []
    for block in blocks:
        kept.add(RefusedRows((), block))

    assert list(kept) == expected
    assert [(row.row_number, str(row.reason), row.column) for row in expected] == [
        (1, "wrong_type", "hour_at"),
        (2, "wrong_type", "visitors"),
        (3, "wrong_type", "hour_at"),
        (4, "wrong_type", "visitors"),
    ]
    assert list((tmp_path / "drops").iterdir()) == []
    kept.close()
