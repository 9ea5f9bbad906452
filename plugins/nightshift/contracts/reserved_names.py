"""Names that the warehouse or nightshift itself uses.

A contract or spec that takes one is refused when it is read.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from nightshift.contracts.yaml_document import Identifier

# Columns that every table has. Source:
# https://www.postgresql.org/docs/current/ddl-system-columns.html
SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
# Columns that every raw table has in addition to those of its contract.
RAW_COLUMNS = frozenset(
    {"partition_date", "load_id", "known_at", "source_row", "source_uri", "source_sha256"}
)
# Tables of schema ``raw`` that belong to no contract.
RAW_TABLES = frozenset({"ingested_drops"})
# Columns of prediction tables and of the views on them, in addition to the entity's key.
PREDICTION_COLUMNS = frozenset({
    "partition_date", "load_id", "shard", "event_timestamp", "score", "probability", "decile",
    "is_positive", "reasons", "model_version", "features_as_of", "score_source",
    "score_source_reason", "run_id", "published_at", "superseded_at", "outcome", "causes",
    "outcome_known_at", "is_mature", "median", "interval_low", "interval_high",
})  # fmt: skip
# Columns of the analysts' views, in addition to those of prediction tables.
VIEW_COLUMNS = frozenset({
    "predicted_day", "value", "base_probability", "base_value", "other_effects", "known_as_of",
    "log_loss", "absolute_error", "model", "feature", "reason", "rank", "comparison",
    "value_low", "value_high", "probability_low", "probability_high",
})  # fmt: skip
# Columns that every feature view has for bookkeeping.
FEATURE_COLUMNS = frozenset({"partition_date", "load_id", "as_of"})

_PARTITION_INDEX, _LARGE, _PRIMARY_KEY = "_by_partition", "$large", "_pkey"
# What follows a model's name in the analysts' views; older versions of a view end in _v<n>.
VIEW_SUFFIXES = (
    "current", "history", "outcomes", "reasons", "causes", "changes", "performance", "versions",
)  # fmt: skip
_VIEWS = tuple(f"_{suffix}" for suffix in VIEW_SUFFIXES)
_OLD_VIEW = re.compile(rf"(.+)_({'|'.join(VIEW_SUFFIXES)})_v[0-9]+")
# Views of schema ``analytics`` that belong to no model.
_SHARED_VIEWS = frozenset({"health", "data_dictionary"})
# PostgreSQL cuts longer names, and two of them would be one.
MAXIMUM_DATASET_LENGTH = 63 - len(_LARGE + _PARTITION_INDEX)


def _refuse_column(name: str) -> str:
    if name in SYSTEM_COLUMNS:
        raise ValueError(f"{name} is a system column of PostgreSQL{_remedy(name)}")
    if name in RAW_COLUMNS:
        raise ValueError(f"{name} is a column of every raw table{_remedy(name)}")
    return name


def _refuse_dataset(name: str) -> str:
    if name in RAW_TABLES:
        raise ValueError(f"raw.{name} is a table of nightshift; choose another name")
    if name.endswith(_PARTITION_INDEX):
        raise ValueError(f"a name that ends in {_PARTITION_INDEX} is an index of another dataset")
    if len(name) > MAXIMUM_DATASET_LENGTH:
        raise ValueError(
            f"name has at most {MAXIMUM_DATASET_LENGTH} characters,"
            " names of relations and indexes are built from it"
        )
    return name


def _refuse_model(name: str) -> str:
    if name in _SHARED_VIEWS or _OLD_VIEW.fullmatch(name):
        raise ValueError(f"{name} is a view for analysts; choose another name")
    for ending in (*_VIEWS, _PRIMARY_KEY):
        if name.endswith(ending):
            raise ValueError(
                f"a name that ends in {ending} is a relation of the model"
                f" {name.removesuffix(ending)!r}; choose another name"
            )
    return name


def _refuse_entity_key(name: str) -> str:
    if name in PREDICTION_COLUMNS | VIEW_COLUMNS | SYSTEM_COLUMNS:
        raise ValueError(
            f"{name} is another column of every prediction table or of the views on it; rename it"
            " in the feature view"
        )
    return name


def _remedy(name: str) -> str:
    return f": choose another name, and set `source: {name}` if files have this one"


ColumnName = Annotated[Identifier, AfterValidator(_refuse_column)]
"""A column that can stand in a raw table."""
DatasetName = Annotated[Identifier, AfterValidator(_refuse_dataset)]
"""A dataset whose raw table is no other relation."""
ModelName = Annotated[Identifier, AfterValidator(_refuse_model)]
"""A model whose relations cannot be taken for another model's."""
EntityKey = Annotated[Identifier, AfterValidator(_refuse_entity_key)]
"""A column that predictions do not have as another one."""
