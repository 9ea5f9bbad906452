"""Thousands of damaged ``model.json``: each is refused with a code or gives equal probabilities.

Once as a disk or a hand damages it, and once as if its digest were right: then its schema and its
golden answers are all that is left, and nothing may end without a code.
"""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.chaos.poisoned_models.conftest import make_rows, stored

from nightshift.errors import NightshiftError
from nightshift.models.calibration import apply_calibration
from nightshift.models.golden import GoldenError
from nightshift.models.model_document import SEAL, seal
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.trained_model import TrainedModel

pytestmark = [pytest.mark.promise("R8"), pytest.mark.mlts("infra-4")]
STRANGE = [None, True, "", "x", -1, 0, 1e308, 10**400, [], {}, [[]], {"method": "none"}]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the path of every part of a document."""
    found = [path] if path else []
    parts = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, part in parts:
        found += places(part, (*path, name))
    return found


def damage(document: dict[str, Any], dice: Random) -> dict[str, Any]:
    """Replace, remove or change one part; the calibration as often as all the rest."""
    changed = copy.deepcopy(document)
    everywhere = places(changed)
    calibration = [
        path for path in everywhere if path[0] in ("calibration", "threshold", "decile_edges")
    ]
    *above, name = dice.choice(calibration if dice.random() < 0.5 else everywhere)
    holder = changed
    for part in above:
        holder = holder[part]
    kind = dice.randrange(4)
    if kind == 0:
        del holder[name]
    elif kind == 1 and isinstance(holder[name], int | float):
        holder[name] = holder[name] * dice.choice([-1, 0.5, 1 + 1e-6, 1e300]) + dice.choice([0, 1])
    elif kind == 2 and isinstance(holder, dict):
        holder[f"{name}x"] = holder.pop(name)
    else:
        holder[name] = dice.choice(STRANGE)
    return changed


def with_calibrations(models: dict[str, TrainedModel]) -> list[TrainedModel]:
    """Return the models: the binary one with each way of calibration."""
    steps = {
        "method": "isotonic",
        "raw": [-3.0, -1.0, 0.5, 2.0],
        "probability": [0.05, 0.2, 0.6, 0.9],
    }
    ways = [models["binary"].calibration, steps, {"method": "none"}]
    return [
        *(stored(replace(models["binary"], calibration=way, golden=None)) for way in ways),
        models["regression"],
    ]


def answers(model: TrainedModel, raw: Any) -> bytes:
    found = model.from_raw(raw)
    return b"".join(part.tobytes() for part in (found.score, found.probability) if part is not None)


@pytest.fixture(scope="module")
def calibrated(models) -> list[TrainedModel]:
    return with_calibrations(models)


FEW_AND_MANY = [300, pytest.param(4_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize("n", FEW_AND_MANY)
def test_no_damaged_document_gives_other_probabilities_or_ends_without_a_code(
    calibrated, record_figure, n
):
    dice, raw = Random(n), np.linspace(-4, 4, 200)  # noqa: S311 - reproducible damage, no secret
    n_refused = 0
    for number in range(n):
        model = calibrated[number % len(calibrated)]
        changed = damage(json.loads(model.files["model.json"]), dice)
        try:
            read = TrainedModel.from_files(model.files["model.lgb"], json.dumps(changed).encode())
        except ModelTextError:
            n_refused += 1
        else:
            assert answers(read, raw) == answers(model, raw)
    record_figure("damaged documents refused", n_refused)
    assert n_refused > 0.9 * n


@pytest.mark.parametrize("n", FEW_AND_MANY)
def test_no_document_that_claims_to_be_whole_ends_without_a_code(calibrated, record_figure, n):
    dice = Random(n + 1)  # noqa: S311 - reproducible damage, no secret
    raw = np.linspace(-4, 4, 200)
    rows = make_rows(20, 3)
    n_read = 0
    for number in range(n):
        model = calibrated[number % len(calibrated)]
        changed = damage(json.loads(model.files["model.json"]), dice)
        changed.pop(SEAL, None)
        try:
            read = TrainedModel.from_files(
                model.files["model.lgb"], json.dumps(seal(changed)).encode()
            )
        except ModelTextError:
            continue
        n_read += 1
        read.deciles(read.from_raw(raw).score)
        with suppress(NightshiftError):  # an error without a code is none
            read.encode(rows)
    record_figure("documents that claim to be whole and were read", n_read)
    assert n_read > 0


@pytest.mark.parametrize(
    "calibration",
    [
        {"method": "platt", "slope": 1.1, "intercept": 0.0},
        {"method": "platt", "slope": -1.0, "intercept": 0.0},
        {"method": "platt", "slope": 1.0},
        {"method": "isotonic", "raw": [0.0, 1.0], "probability": [0.2]},
        {"method": "isotonic", "raw": [1.0, 0.0], "probability": [0.2, 0.3]},
        {"method": "isotonic", "raw": [0.0, 1.0], "probability": [0.9, 0.3]},
        {"method": "beta"},
        {},
        None,
    ],
)
def test_another_calibration_is_refused_also_when_the_digest_is_right(models, calibration):
    files = models["binary"].files
    document = json.loads(files["model.json"]) | {"calibration": calibration}
    document.pop(SEAL)
    with pytest.raises(ModelTextError):
        TrainedModel.from_files(files["model.lgb"], json.dumps(seal(document)).encode())


def test_a_version_from_before_is_read_and_stays_what_it_is(models):
    """A deployed champion must not be lost to an upgrade."""
    document = json.loads(models["binary"].files["model.json"])
    del document[SEAL], document["golden"]["probability"]
    # A linear member came later.
    del document["linear"], document["golden"]["linear"]
    old = json.dumps(document | {"format": 2}, indent=1, sort_keys=True).encode()

    read = TrainedModel.from_files(models["binary"].files["model.lgb"], old)

    assert read.files["model.json"] == old
    half = models["binary"].files["model.json"].replace(b'"format": 4', b'"format": 2')
    with pytest.raises(ModelTextError, match="cannot be read"):
        TrainedModel.from_files(models["binary"].files["model.lgb"], half)


def test_probabilities_that_differ_are_named(models):
    model = models["binary"]
    golden = model.golden
    raw = model.with_linear(golden.matrix, np.array(golden.raw))
    probability = apply_calibration(model.calibration, raw)
    golden.compare_probability(probability)
    with pytest.raises(GoldenError, match="calibrates scores differently"):
        golden.compare_probability(probability + 1e-6)
