"""Thousands of damaged models with matching digests: none ends, hangs or misleads its process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from tests.chaos.poisoned_models.mutators import MUTATORS, mutant, with_true_sizes

from nightshift.models import sandboxed_load
from nightshift.models.booster import library_path
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.sandboxed_load import LoadTrialError, check_in_child
from nightshift.models.trained_model import TrainedModel
from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.promise("R8"), pytest.mark.mlts("infra-4"), pytest.mark.mlts("mon-5")]
LONGEST_SECONDS = 5.0


def sweep(seed: int, n: int, timeout_seconds: float) -> list[dict]:
    """Judge mutants in a process of its own, whose death is seen here."""
    command = [sys.executable, "-m", "tests.chaos.poisoned_models.sweep", str(seed), "0", str(n)]
    environment = {
        "PYTHONPATH": f"{PROJECT_ROOT}:{PROJECT_ROOT / 'plugins'}",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        cwd=PROJECT_ROOT,
        timeout=timeout_seconds,
        check=False,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (
        f"it ended after mutant {len(outcomes)}: {done.returncode} {done.stderr[-500:]}"
    )
    return outcomes


def check(outcomes: list[dict], n: int, record_figure) -> Counter[str]:
    verdicts = Counter(outcome["verdict"] for outcome in outcomes)
    for name, count in {
        "mutants": n,
        **{f"mutants {verdict}": count for verdict, count in verdicts.items()},
    }.items():
        record_figure(name, count)
    longest = max(outcome["seconds"] for outcome in outcomes)
    record_figure("slowest mutant, seconds", longest)
    assert [outcome["number"] for outcome in outcomes] == list(range(n))
    assert [
        outcome for outcome in outcomes if outcome["verdict"] in {"unnamed", "not finite"}
    ] == []
    assert longest < LONGEST_SECONDS
    return verdicts


def test_no_mutant_harms_the_caller(record_figure):
    n = 9 * len(MUTATORS)
    verdicts = check(sweep(1, n, 110), n, record_figure)

    assert verdicts["refused"] > 0.8 * n
    assert verdicts["other"] < 0.02 * n


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [2, 3])
def test_no_mutant_of_thousands_harms_the_caller(seed, record_figure):
    n = 100 * len(MUTATORS)
    verdicts = check(sweep(seed, n, 3500), n, record_figure)

    assert verdicts["refused"] > 0.8 * n
    assert verdicts["other"] < 0.02 * n


def test_every_kind_of_damage_changes_the_text(models):
    strings = [model.text for model in models.values()]
    changed = Counter(
        kind
        for number in range(8 * len(MUTATORS))
        for kind, text in [mutant(5, number, strings)]
        if text not in strings
    )
    assert set(changed) == set(MUTATORS)


def ending(text: str, model: TrainedModel) -> str:
    """Return how the child ended that loaded an unchecked text."""
    try:
        check_in_child(text, model.golden, library_path())
    except LoadTrialError as error:
        return error.got or error.what
    except ModelTextError as error:
        return error.code
    return "nothing wrong"


@pytest.mark.parametrize("kind", ["truncated", "child elsewhere"])
def test_lightgbm_dies_of_mutants_when_nobody_checks_their_text(models, kind):
    """The control: without the structural check the child dies, and the caller names the end."""
    model = models["binary"]
    endings = set()
    for number in range(12):
        die = Random(f"{kind} {number}")  # noqa: S311 - reproducible damage, no secret
        text = MUTATORS[kind](die, model.text)
        endings.add(ending(text if kind == "truncated" else with_true_sizes(text), model))
    assert {"SIGABRT", "SIGSEGV"} & endings


@pytest.mark.timeout(60)
def test_endless_tree_ends_with_the_childs_processor_time_when_nobody_checks_its_text(
    models, monkeypatch
):
    monkeypatch.setattr(sandboxed_load, "CPU_SECONDS", 1)
    model = models["binary"]
    left = next(line for line in model.text.split("\n") if line.startswith("left_child="))
    ring = with_true_sizes(
        model.text.replace(left, "left_child=" + " ".join(["0"] * len(left.split(" "))), 1)
    )
    assert ending(ring, model) in {
        "SIGXCPU",
        "SIGKILL",
        "SIGSEGV",
        "Loading the model took too long.",
    }
