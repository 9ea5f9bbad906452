"""Names of the warehouse and of our own are refused when a contract or spec is read.

With what to do.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from nightshift.contracts.datasets import DatasetContract
from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.reserved_names import MAXIMUM_DATASET_LENGTH
from nightshift.settings import PROJECT_ROOT


def contract(name: str = "orders", column: str = "amount") -> dict[str, Any]:
    return {
        "name": name,
        "description": "d",
        "schema_version": 1,
        "delivery": "daily",
        "history_start": "2013-01-01",
        "grain": "g",
        "key": ["id"],
        "columns": [{"name": "id", "type": "text"}, {"name": column, "type": "integer"}],
    }


def spec(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(
        (PROJECT_ROOT / "dags" / "models" / "flight_delayed.yaml").read_text()
    )
    for name, value in changes.items():
        part, _, key = name.partition("__")
        document[part] = document[part] | {key: value} if key else value
    return document


@pytest.mark.parametrize(
    "column", ["load_id", "partition_date", "known_at", "source_row", "source_uri", "source_sha256"]
)
def test_a_column_of_every_raw_table_is_refused_with_the_remedy(column: str) -> None:
    with pytest.raises(
        ValidationError, match=f"{column} is a column of every raw table.*source: {column}"
    ):
        DatasetContract.model_validate(contract(column=column))
    renamed = contract(column="delivered_value")
    renamed["columns"][1]["source"] = column
    assert DatasetContract.model_validate(renamed).columns[1].delivered_name == column


@pytest.mark.parametrize("column", ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"])
def test_a_system_column_is_refused(column: str) -> None:
    with pytest.raises(
        ValidationError, match=f"{column} is a system column of PostgreSQL.*source: {column}"
    ):
        DatasetContract.model_validate(contract(column=column))


@pytest.mark.parametrize(
    "name", ["ingested_drops", "orders_by_partition", "o" * (MAXIMUM_DATASET_LENGTH + 1)]
)
def test_a_dataset_whose_tables_would_be_others_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        DatasetContract.model_validate(contract(name))
    DatasetContract.model_validate(contract("o" * MAXIMUM_DATASET_LENGTH))


@pytest.mark.parametrize("name", ["x_current", "x_history", "x_outcomes", "x_pkey"])
def test_a_model_named_like_a_relation_of_another_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is a relation of the model 'x'"):
        ModelSpec.model_validate(spec(name=name))


@pytest.mark.parametrize(
    "key", ["score", "probability", "load_id", "run_id", "event_timestamp", "outcome", "xmin"]
)
def test_an_entity_key_that_predictions_have_already_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} is another column of every prediction table"):
        ModelSpec.model_validate(spec(entity={"name": "flight", "key": key}))


def test_a_label_named_like_a_feature_is_refused() -> None:
    with pytest.raises(ValidationError, match="the label 'distance_miles' is no feature"):
        ModelSpec.model_validate(spec(label__column="distance_miles"))


@pytest.mark.parametrize(
    "name", ["flight_id", "event_timestamp", "partition_date", "load_id", "as_of"]
)
def test_a_column_that_says_which_row_it_is_is_no_feature(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name}: columns that identify a row"):
        ModelSpec.model_validate(spec(features={"numeric": [name, "distance_miles"]}))


@pytest.mark.parametrize("default", [-0.1, 1.5, 6.0])
def test_a_rule_that_gives_no_probability_is_refused_for_a_binary_model(default: float) -> None:
    rule = {"feature": "origin_hour_delay_rate_28d", "default": default}
    with pytest.raises(
        ValidationError, match=r"scoring\.fallback\.default of a binary model is a probability"
    ):
        ModelSpec.model_validate(spec(scoring__fallback=rule))
