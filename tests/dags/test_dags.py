"""The DAGs that Airflow reads are the ones that we mean, and each of them decides what it must."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.dags.conftest import read_dags

from nightshift.contracts.model_spec import load_spec
from nightshift.orchestration.defaults import N_TRIES, RETRY_DELAY
from nightshift.settings import PROJECT_ROOT

MODELS = ("arrival_delay_minutes", "flight_delayed")
STAGES = ("score", "rescue", "monitor", "train", "shadow", "study")
RUNS = {"ingest": 16, "transform": 16, "rollback": 4, "rescue": 2}
"""Runs at the same time where it is more than one: what waits for upstream must keep no other
night from starting.
"""
EXPECTED = {"catch_up", "ingest", "rollback", "telemetry", "transform"} | {
    f"{stage}__{model}" for stage in STAGES for model in MODELS
}


def test_exactly_the_expected_dags_load(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == EXPECTED


def test_no_heavy_library_is_imported_when_dags_are_parsed(parsed: dict[str, Any]) -> None:
    assert parsed["heavy"] == []


@pytest.mark.parametrize("dag_id", sorted(EXPECTED))
def test_every_dag_decides_runs_catchup_tags_and_documentation(
    parsed: dict[str, Any], dag_id: str
) -> None:
    dag = parsed["dags"][dag_id]
    assert dag["max_active_runs"] == RUNS.get(dag_id.partition("__")[0], 1)
    tries = sum(task["timeout_seconds"] * N_TRIES for task in dag["tasks"].values())
    assert dag["longest_run_seconds"] >= min(tries, 6 * 3600) or dag_id == "catch_up", (
        "it would end while its tasks may still try"
    )
    assert dag["start_date"] is None, (
        "Airflow would start last midnight's run as soon as it reads the DAG"
    )
    assert dag["catchup"] is False
    assert "nightshift" in dag["tags"]
    for word in ("**Reads**", "**Writes**", "**Starts**", "**Rerun"):
        assert word in dag["doc"]


@pytest.mark.parametrize("dag_id", sorted(EXPECTED))
def test_every_task_decides_owner_retries_time_limit_and_pool(
    parsed: dict[str, Any], dag_id: str
) -> None:
    tasks = parsed["dags"][dag_id]["tasks"]
    assert tasks
    for task in tasks.values():
        assert task["owner"] in {"data-platform", "flight-operations"}
        assert task["retries"] >= 2
        assert task["timeout_seconds"] > 0
        assert task["pool"] in {"warehouse", "scoring", "training", "rescue", "shadow"}
        assert task["policy"] == "StageRetryPolicy"


def test_assets_chain_the_dags(parsed: dict[str, Any]) -> None:
    outlets = {
        dag_id: sorted(name for task in dag["tasks"].values() for name in task["outlets"])
        for dag_id, dag in parsed["dags"].items()
    }
    assert outlets == {
        "ingest": ["raw/flight_outcomes", "raw/flight_schedules", "raw/weather"],
        "catch_up": sorted(
            [
                "raw/flight_outcomes",
                "raw/flight_schedules",
                "raw/weather",
                "features/flight",
                *(f"{kind}/{model}" for kind in ("predictions", "retrain") for model in MODELS),
            ]
        ),
        "transform": ["features/flight"],
        **{f"score__{model}": [f"predictions/{model}"] for model in MODELS},
        **{f"rescue__{model}": [f"predictions/{model}"] for model in MODELS},
        **{f"monitor__{model}": [f"retrain/{model}"] for model in MODELS},
        **{f"train__{model}": [f"model/{model}"] for model in MODELS},
        **{f"shadow__{model}": [f"model/{model}"] for model in MODELS},
        **{f"study__{model}": [] for model in MODELS},
        "rollback": [],
        "telemetry": [],
    }


def test_assets_that_are_waited_for_together_are_emitted_by_one_task(
    parsed: dict[str, Any],
) -> None:
    """Events of two tasks that end at the same moment are lost:
    docs/adr/0003-partitions-and-assets.md."""
    emitting = {
        name: task["outlets"]
        for name, task in parsed["dags"]["ingest"]["tasks"].items()
        if task["outlets"]
    }
    assert emitting == {
        "announce_raw": ["raw/flight_outcomes", "raw/flight_schedules", "raw/weather"]
    }


def test_ingest_announces_after_all_loads_and_ends_red_when_one_failed(
    parsed: dict[str, Any],
) -> None:
    tasks = parsed["dags"]["ingest"]["tasks"]
    loads = ["load_flight_outcomes", "load_flight_schedules", "load_reference", "load_weather"]
    assert [tasks[name]["downstream"] for name in loads] == [["announce_raw", "tell_failures"]] * 4
    assert (tasks["announce_raw"]["trigger_rule"], tasks["tell_failures"]["trigger_rule"]) == (
        "all_done",
        "one_failed",
    )


@pytest.mark.parametrize("model", MODELS)
def test_all_tries_of_a_rescue_end_before_the_deadline(parsed: dict[str, Any], model: str) -> None:
    minutes = load_spec(
        PROJECT_ROOT / "dags" / "models", model
    ).scoring.rescue_minutes_before_deadline
    rescue = parsed["dags"][f"rescue__{model}"]["tasks"]["rescue"]
    longest = N_TRIES * rescue["timeout_seconds"] + (N_TRIES - 1) * RETRY_DELAY.total_seconds()
    assert minutes * 60 / 2 + longest <= minutes * 60


@pytest.mark.parametrize("model", MODELS)
def test_nothing_else_waits_for_the_shadow_and_it_takes_no_slot_of_anything_else(
    parsed: dict[str, Any], model: str
) -> None:
    shadow = parsed["dags"][f"shadow__{model}"]
    assert {task["pool"] for task in shadow["tasks"].values()} == {"shadow"}
    # Tonight's scores and the record of matured nights fail on their own, each as a red run.
    assert shadow["tasks"]["score_shadows"]["downstream"] == []
    assert shadow["tasks"]["record_nights"]["downstream"] == ["decide"]
    others = {
        task["pool"]
        for dag_id, dag in parsed["dags"].items()
        for task in dag["tasks"].values()
        if not dag_id.startswith("shadow__")
    }
    assert "shadow" not in others


def test_scoring_publishes_after_all_shards(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["score__flight_delayed"]["tasks"]
    assert tasks["begin"]["downstream"] == ["publish", "score_shard"]
    assert tasks["score_shard"]["downstream"] == ["publish"]


def test_other_models_keep_their_dags_when_spec_and_contract_files_are_wrong(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "dags"
    shutil.copytree(PROJECT_ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    good = (folder / "models" / "flight_delayed.yaml").read_text()
    (folder / "models" / "flight_delayed.yaml").write_text(good + "unheard_of: 1\n")
    (folder / "models" / "flight_delayed (copy).yaml").write_text(good)
    (folder / "models" / "deep.yaml").write_text("[" * 100_000)
    (folder / "datasets" / "weather.yaml").write_text("")

    found = read_dags(folder, tmp_path / "home")

    others = {dag_id for dag_id in EXPECTED if not dag_id.endswith("__flight_delayed")}
    assert set(found["dags"]) == others | {"rescue__flight_delayed", "rescue__deep"}
    assert [Path(file).name for file in found["errors"]] == ["wrong_files.py"]
    for said in (
        f"flight_delayed.yaml:{len(good.splitlines()) + 1}: unheard_of",
        "flight_delayed (copy).yaml",
        "deep.yaml",
        "weather.yaml",
    ):
        assert said in next(iter(found["errors"].values()))
    assert set(found["dags"]["rescue__flight_delayed"]["tasks"]) == {"rescue"}
    assert "load_weather" not in found["dags"]["ingest"]["tasks"]
    assert found["heavy"] == []


def test_a_new_spec_needs_no_python(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    shutil.copytree(PROJECT_ROOT / "dags", folder)
    spec = (folder / "models" / "flight_delayed.yaml").read_text()
    (folder / "models" / "flight_late_again.yaml").write_text(
        spec.replace("name: flight_delayed", "name: flight_late_again", 1)
    )
    dags = read_dags(folder, tmp_path / "home")
    assert dags["errors"] == {}
    assert {f"{stage}__flight_late_again" for stage in STAGES} <= set(dags["dags"])
