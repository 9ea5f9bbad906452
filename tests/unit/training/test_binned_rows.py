"""Binned rows give the trees of the rows themselves; a damaged or foreign file is never used."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.training.test_boosting import EVERY_OTHER, PLAN, SAMPLED, STRONG, make_parts

from nightshift.training.trees import binned_rows, boosting
from nightshift.training.trees.boosting import fit_trees

TUNED = {"num_leaves": 5, "learning_rate": 0.3, "feature_fraction": 0.5, "lambda_l2": 1.0}
"""Differs from the plan in nothing that decides about bins."""


@pytest.fixture(scope="module")
def parts():
    (matrix, label), validation = make_parts()
    columns = pa.table(
        {name: pa.array(matrix[:, i], from_pandas=True) for i, name in enumerate(PLAN.names)}
    )
    return (columns, label), validation


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def n_binned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each binning of training rows."""
    binned, keep = [], binned_rows.BinnedRows.keep
    monkeypatch.setattr(
        binned_rows.BinnedRows, "keep", lambda *args: binned.append(1) or keep(*args)
    )
    return binned


@pytest.mark.parametrize("objective", ["binary", "regression_l1", "huber"])
@pytest.mark.parametrize("params", [PLAN.params, SAMPLED, SAMPLED | STRONG, EVERY_OTHER])
def test_the_trees_are_those_of_the_rows(parts, tmp_path, n_binned, objective, params):
    plan = replace(PLAN, objective=objective, params=params)
    undisturbed = fit_trees(*parts, plan)
    fit_trees(
        *parts,
        replace(
            plan,
            params={
                name: value for name, value in params.items() if name in boosting.BINNING_PARAMS
            }
            | TUNED,
        ),
        None,
        tmp_path,
    )

    assert fit_trees(*parts, plan, None, tmp_path) == undisturbed
    assert fit_trees(*parts, replace(plan, n_threads=2), None, tmp_path).text == undisturbed.text
    assert len(n_binned) == len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    ["a value", "null", "label", "order", "type", "names", "seed", "max_bin", "min_data_in_leaf"],
)
def test_other_rows_or_bins_are_binned_anew(parts, tmp_path, n_binned, change):
    (columns, label), validation = parts
    plan = PLAN
    fit_trees((columns, label), validation, plan, None, tmp_path)
    first = columns["a"].to_numpy().copy()
    match change:
        case "a value":
            first[0] = np.nextafter(first[0], 9)
            columns = columns.set_column(0, "a", pa.array(first))
        case "null":
            first[0] = np.nan
            columns = columns.set_column(0, "a", pa.array(first, from_pandas=True))
        case "label":
            label = 1 - label
        case "order":
            columns, label = columns.take(np.arange(1000)[::-1]), label[::-1].copy()
        case "type":
            columns = columns.set_column(3, "kind", columns["kind"].cast(pa.float32()))
        case "names":
            plan = replace(plan, names=["z", *plan.names[1:]])
            columns = columns.rename_columns(plan.names)
        case "seed":
            plan = replace(plan, seed=8)
        case name:
            plan = replace(plan, params={**plan.params, name: 5})

    again = fit_trees((columns, label), validation, plan, None, tmp_path)

    assert again == fit_trees((columns, label), validation, plan)
    assert len(n_binned) == 2


@pytest.mark.parametrize("damage", ["cut off", "one bit", "nothing", "cut off when it was written"])
def test_a_damaged_file_goes_and_the_rows_are_binned(parts, tmp_path, caplog, damage):
    undisturbed = fit_trees(*parts, PLAN, None, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    match damage:
        case "cut off":
            path.write_bytes(whole[:-100])
        case "one bit":
            path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
        case "nothing":
            path.write_bytes(b"")
        case _:  # as a full disk leaves it if nobody says so
            path.unlink()
            cut = tmp_path / "cut"
            cut.write_bytes(whole[: len(whole) // 2])
            cut.replace(tmp_path / f"{path.stem.split('-')[0]}-{binned_rows.digest_of(cut)}.bin")

    with caplog.at_level(logging.WARNING):
        assert fit_trees(*parts, PLAN, None, tmp_path) == undisturbed

    assert "binned again" in caplog.text
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == whole


def test_a_fit_goes_on_without_a_folder(parts, tmp_path, caplog):
    folder = tmp_path / "file"
    folder.write_text("no folder")

    assert fit_trees(*parts, PLAN, None, folder) == fit_trees(*parts, PLAN)
    assert "not kept" in caplog.text


def test_a_killed_fit_goes_on_from_its_checkpoint(parts, tmp_path, monkeypatch):
    undisturbed = fit_trees(*parts, PLAN)
    checkpoint, folder, save = tmp_path / "fit.json", tmp_path / "binned", boosting.save_checkpoint

    def save_then_die(path, state):
        save(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(boosting, "save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        fit_trees(*parts, PLAN, checkpoint, folder)
    monkeypatch.setattr(boosting, "save_checkpoint", save)

    assert fit_trees(*parts, PLAN, checkpoint, folder) == undisturbed


def test_segments_that_start_from_a_text_take_the_rows(parts, tmp_path):
    plan = replace(PLAN, params={"extra_trees": True})

    assert fit_trees(*parts, plan, None, tmp_path) == fit_trees(*parts, plan)
    assert files(tmp_path) == []


def test_a_second_training_finds_all_sets_of_rows(parts, tmp_path, monkeypatch):
    plans = [replace(PLAN, seed=seed, n_rounds=1) for seed in range(10)]
    for plan in plans:
        fit_trees(*parts, plan, None, tmp_path)
    monkeypatch.setattr(binned_rows.BinnedRows, "keep", None)
    for plan in plans:
        fit_trees(*parts, plan, None, tmp_path)


def test_the_files_that_were_used_last_stay_within_the_limit(parts, tmp_path, monkeypatch):
    plans = [replace(PLAN, seed=seed, n_rounds=1) for seed in range(4)]
    for plan in plans[:3]:
        fit_trees(*parts, plan, None, tmp_path)
    by_age = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    n_bytes = sum(path.stat().st_size for path in by_age)
    monkeypatch.setattr(binned_rows, "MAX_BYTES", n_bytes + 1000)
    fit_trees(*parts, plans[0], None, tmp_path)  # used again
    fit_trees(*parts, plans[3], None, tmp_path)

    assert len(files(tmp_path)) == 3
    assert [path.exists() for path in by_age] == [True, False, True]


def test_a_draft_of_a_killed_process_goes(parts, tmp_path):
    kept, forgotten = tmp_path / ".of another process", tmp_path / ".of a killed process"
    for draft in (kept, forgotten):
        draft.write_bytes(b"half")
    os.utime(forgotten, (time.time() - 7200,) * 2)
    fit_trees(*parts, PLAN, None, tmp_path)

    assert kept.exists()
    assert not forgotten.exists()


def test_a_file_that_another_fit_deletes_is_binned_anew(parts, tmp_path, monkeypatch):
    undisturbed = fit_trees(*parts, PLAN, None, tmp_path)
    digest = binned_rows.digest_of

    def delete_first(path):
        path.unlink()
        monkeypatch.setattr(binned_rows, "digest_of", digest)
        return digest(path)

    monkeypatch.setattr(binned_rows, "digest_of", delete_first)
    assert fit_trees(*parts, PLAN, None, tmp_path) == undisturbed
    assert len(files(tmp_path)) == 1
