"""On a machine too busy to load the champion, no promotion is decided without the comparison."""

from __future__ import annotations

import datetime as dt
import errno
import os
import subprocess
from collections import Counter
from random import Random

import pytest
from tests.chaos.poisoned_models.conftest import make_rows, spec_of

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.models import sandboxed_load
from nightshift.models.sandboxed_load import LoadTimeoutError
from nightshift.models.trained_model import TrainedModel
from nightshift.registry import champions
from nightshift.registry.checks import Criterion, run_checks
from nightshift.registry.model_versions import ModelVersion
from nightshift.registry.performance_checks import non_inferiority
from nightshift.registry.promotion_context import PromotionContext
from nightshift.registry.streams.nights import StreamEvidence
from nightshift.training.statistics.sequential_test import SequentialResult

pytestmark = [pytest.mark.promise("R8")]
DAY = dt.date(2013, 7, 1)


def version(number: int) -> ModelVersion:
    return ModelVersion(
        "parcel_binary", number, "d", "k", "s", 1, "k", "s", 1, "t", DAY, DAY, {}, {}
    )


class JudgedCase(PromotionContext):
    """A promotion with rows of its own; all else of the gate is real."""

    rows = make_rows(5, 4)


def judged(files: dict[str, bytes], monkeypatch, spec) -> PromotionContext:
    """Return a new decision, in which the champion is loaded from its files."""
    monkeypatch.setattr(champions, "load_model", lambda _store, _version: loaded(files))
    evidence = StreamEvidence(Partition(DAY), "trained", None, SequentialResult(0, 0.0, None, 1.0))
    return JudgedCase(None, None, spec, None, {}, version(2), version(1), evidence)


def loaded(files: dict[str, bytes]) -> TrainedModel:
    model = TrainedModel.from_files(files["model.lgb"], files["model.json"])
    model.booster  # noqa: B018 - what load_model does
    return model


def starve(monkeypatch, dice: Random, share: float) -> None:
    """Let so many children of a load get no processor in their time."""
    run = subprocess.run

    def run_or_starve(*given, **how):
        if dice.random() < share:
            raise subprocess.TimeoutExpired("child", how["timeout"])
        return run(*given, **how)

    monkeypatch.setattr(sandboxed_load.subprocess, "run", run_or_starve)


@pytest.mark.parametrize(
    "n", [100, pytest.param(1_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
def test_no_decision_is_made_without_comparison_when_the_machine_is_starved(
    models, monkeypatch, record_figure, n
):
    files, spec = models["binary"].files, spec_of("binary")
    dice = Random(5)  # noqa: S311 - reproducible starvation, no secret
    outcomes: Counter[str] = Counter()
    starve(monkeypatch, dice, 0.97)
    for _ in range(n):
        monkeypatch.setattr(sandboxed_load, "proved", set())
        case = judged(files, monkeypatch, spec)
        try:
            outcomes[case.champion_status] += 1
        except LoadTimeoutError:
            outcomes["repeated"] += 1
    record_figure("starved decisions", n)
    record_figure("decisions without a comparison", n - outcomes["repeated"] - outcomes["compared"])
    assert set(outcomes) == {"repeated", "compared"}
    assert outcomes["repeated"] > n / 2


def test_the_gate_repeats_the_decision_instead_of_answering_without_the_champion(
    models, monkeypatch
):
    monkeypatch.setattr(sandboxed_load, "proved", set())
    starve(monkeypatch, Random(1), 1.0)  # noqa: S311 - reproducible starvation, no secret
    with pytest.raises(LoadTimeoutError, match="too busy") as caught:
        run_checks(
            judged(models["binary"].files, monkeypatch, spec_of("binary")),
            {"non_inferiority": non_inferiority},
        )
    assert caught.value.is_retryable


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_machine_that_starts_no_process_leaves_the_decision_to_a_later_try(
    models, monkeypatch, number
):
    def refuse(*_given, **_how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sandboxed_load, "proved", set())
    monkeypatch.setattr(sandboxed_load, "DEADLINE_SECONDS", 0.01)
    monkeypatch.setattr(sandboxed_load.subprocess, "run", refuse)
    with pytest.raises(LoadTimeoutError, match="too busy") as caught:
        run_checks(
            judged(models["binary"].files, monkeypatch, spec_of("binary")),
            {"non_inferiority": non_inferiority},
        )
    assert caught.value.is_retryable


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (MemoryError("Unable to allocate 3.2 GiB"), "NS-MEMORY-001"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "NS-MEMORY-001"),
        (RuntimeError("can't start new thread"), "NS-MEMORY-001"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "NS-SPACE-001"),
    ],
)
def test_no_decision_rests_on_a_machine_without_memory_or_space(trouble, code):
    """A decision is final: the challenger would be refused for ever."""

    def check(_context: PromotionContext) -> Criterion:
        raise trouble

    with pytest.raises(NightshiftError) as caught:
        run_checks(None, {"non_inferiority": check})
    assert (caught.value.code, caught.value.is_retryable) == (code, True)


def test_children_that_really_run_out_of_time_leave_the_decision_to_a_later_try(
    models, monkeypatch, record_figure
):
    """No child is faked: each has so little time that on a busy machine few of them end in it."""
    files, spec = models["binary"].files, spec_of("binary")
    dice = Random(7)  # noqa: S311 - reproducible deadlines, no secret
    monkeypatch.setattr(sandboxed_load, "N_TRIES", 1)
    outcomes: Counter[str] = Counter()
    n = 40
    for _ in range(n):
        monkeypatch.setattr(sandboxed_load, "proved", set())
        # Starting Python takes some 0.03 s of a free processor, LightGBM's library more.
        monkeypatch.setattr(sandboxed_load, "DEADLINE_SECONDS", dice.choice([0.01, 0.05, 0.5, 4.0]))
        try:
            outcomes[judged(files, monkeypatch, spec).champion_status] += 1
        except LoadTimeoutError:
            outcomes["repeated"] += 1
    record_figure("decisions with too little time", n)
    record_figure("of them repeated", outcomes["repeated"])
    assert set(outcomes) <= {"repeated", "compared"}
    assert outcomes["repeated"] > 0
