"""What ``nightshift train`` prints while it works: a training takes minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import typer

from nightshift.cli.models.train import train_and_decide

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.integration
STAGES = {
    "nightshift.training.point_in_time_probe.probe_features": "probe",
    "nightshift.training.training_set.build_training_set": "build",
    "nightshift.training.pipeline.train": "fit",
    "nightshift.registry.promotion.decide": "decide",
}


def test_each_long_stage_is_announced_before_it_begins(world, monkeypatch):
    happened: list[str] = []

    def noted(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            happened.append(stage)
            return call(*arguments)

        return wrapper

    for target, stage in STAGES.items():
        module, _, name = target.rpartition(".")
        actual = getattr(__import__(module, fromlist=[name]), name)
        # The project has no view of parcels to rebuild; the probe has tests of its own.
        call = (lambda *_: None) if stage == "probe" else actual
        monkeypatch.setattr(target, noted(stage, call))
    monkeypatch.setattr(typer, "echo", happened.append)

    decision = train_and_decide(world.settings, world.spec, world.night, world.run)

    assert happened == [
        "probing the features of 2020-01-01..2020-01-30 for knowledge of the future",
        "probe",
        "building the training set of 2020-01-01..2020-01-30",
        "build",
        "training on 1,710 rows of 2020-01-01..2020-01-30",
        "fit",
        "checking version 1",
        "decide",
    ]
    assert decision.startswith("version 1, first: ")
