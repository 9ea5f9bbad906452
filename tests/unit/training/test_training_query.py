"""The query of a training set's rows, as the manifest records it."""

from __future__ import annotations

import datetime as dt

import pytest
from tests.integration.training.conftest import FIRST_DAY, tiny_spec

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.provenance import training_set as rebuild
from nightshift.training.training_query import TrainingQuery


class Catalog:
    """A connection that knows the columns of the view, and whether the labels have a pointer."""

    def __init__(self, has_pointer: bool) -> None:
        self.has_pointer = has_pointer

    def execute(self, query: str, _: object):
        names = ("partition_date", "parcel_id", "wind", "load_id")
        self.rows = [(name, "text", "text", "text", False) for name in names]
        if "exists" in query:
            self.rows = [(self.has_pointer,)]
        return self

    def __iter__(self):
        return iter(self.rows)

    def fetchone(self):
        return self.rows[0]


@pytest.mark.parametrize("has_pointer", [True, False])
def test_repro_puts_the_recorded_loads_in_place_of_the_features_pointer_only(has_pointer):
    first = Partition(FIRST_DAY)
    window = PartitionRange(first, first.shift(30))
    as_of = dt.datetime(2020, 2, 9, tzinfo=dt.UTC)
    query = TrainingQuery(Catalog(has_pointer), tiny_spec(), window, first.shift(32), as_of)
    manifest = {
        "query": query.rows(1.0).as_string(None),
        "partitions": [{"partition": "2020-01-01", "load_id": 7}],
    }

    pinned = rebuild.pinned_query(manifest, "features/feat_parcel", "key").as_string(None)

    assert "as p (dataset, partition_date, load_id) on p.dataset = 'features/" in pinned
    assert pinned.count("ops.published") == has_pointer
