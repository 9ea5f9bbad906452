"""The steps between a file and its first score, each with what it is there for."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from hashlib import sha256

import pytest
from tests.chaos.poisoned_models.conftest import stored

from nightshift.models import sandboxed_load, sandboxed_load_child
from nightshift.models.booster import library_path
from nightshift.models.golden import N_ROWS, GoldenError
from nightshift.models.model_document import SEAL, seal
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.sandboxed_load import (
    LoadTimeoutError,
    LoadTrialError,
    check_in_child,
    retry_starved,
)
from nightshift.models.trained_model import TrainedModel

pytestmark = [pytest.mark.promise("R8"), pytest.mark.mlts("infra-4")]


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(sandboxed_load, "proved", set())


def with_document(model: TrainedModel, **changed: object) -> TrainedModel:
    """Return the model with a changed document that has the right digest, as a forger would."""
    document = json.loads(model.files["model.json"]) | changed
    document.pop(SEAL)
    return TrainedModel.from_files(model.files["model.lgb"], json.dumps(seal(document)).encode())


def test_stored_model_comes_back_as_it_was(models, record_figure):
    model = models["binary"]
    assert stored(model).digest == model.digest
    began = time.monotonic()
    assert stored(model).booster.num_trees() > 5
    record_figure("load with child process, seconds", time.monotonic() - began)


def test_child_is_asked_once_for_the_same_text(models, monkeypatch):
    model = models["regression"]
    stored(model).booster  # noqa: B018
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked again"))
    assert stored(model).booster.num_trees() > 5


@pytest.mark.parametrize("name", ["raw", "contributions"])
def test_model_is_refused_when_it_answers_otherwise_than_when_it_was_stored(models, name):
    model = models["binary"]
    golden = json.loads(model.files["model.json"])["golden"]
    if name == "raw":
        golden["raw"][3] = golden["raw"][3] * (1 + 2**-52)
    else:
        golden["contributions"][3][0] += 1e-6
    with pytest.raises(GoldenError) as refusal:
        with_document(model, golden=golden).booster  # noqa: B018
    assert refusal.value.code == "NS-MODEL-005"


def test_golden_predictions_are_compared_although_the_text_has_passed_before(models):
    model = models["binary"]
    stored(model).booster  # noqa: B018
    golden = json.loads(model.files["model.json"])["golden"]
    golden["raw"][0] += 0.5
    with pytest.raises(GoldenError, match="scores differently"):
        with_document(model, golden=golden).booster  # noqa: B018


def test_golden_rows_lie_on_both_sides_of_most_splits(models):
    for model in models.values():
        leaves = model.booster.predict(model.golden.matrix, pred_leaf=True)
        n_leaves = sum(
            int(line.split("=")[1])
            for line in model.text.split("\n")
            if line.startswith("num_leaves=")
        )
        reached = sum(len({*leaves[:, tree]}) for tree in range(leaves.shape[1]))
        assert len(model.golden.rows) == N_ROWS
        assert reached > 0.6 * n_leaves


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 1},
        {"trees_sha256": "0" * 64},
        {"signature_digest": "0" * 64},
        {"task": "poetry"},
        {"signature": {}},
        {"golden": None},
        {"golden": {"rows": [], "raw": [], "contributions": []}},
        {"threshold": "0.5"},
        {"decile_edges": ["x"]},
        {"threshold": float("nan")},
        {"decile_edges": [float("inf")]},
    ],
    ids=str,
)
def test_files_are_refused_when_they_do_not_belong_together(models, changed):
    with pytest.raises(ModelTextError) as refusal:
        with_document(models["binary"], **changed)
    assert refusal.value.code == "NS-MODEL-003"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"format": 2}', b"[" * 100_000]
)
def test_files_are_refused_when_one_is_no_document(models, content):
    with pytest.raises(ModelTextError, match=r"cannot be read|is not an object"):
        TrainedModel.from_files(models["binary"].files["model.lgb"], content)


def test_huge_number_in_the_document_is_refused(models):
    files = models["binary"].files
    with pytest.raises(ModelTextError, match="cannot be read"):
        TrainedModel.from_files(
            files["model.lgb"],
            files["model.json"].replace(b'"threshold": ', b'"threshold": 1e999, "was": '),
        )


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": 10**400},
        {"decile_edges": [10**400]},
        {"decile_edges": [i / 20 for i in range(12)]},
        {"decile_edges": [0.2, 0.1]},
        {"decile_edges": ["a"]},
        {"threshold": None},
    ],
)
def test_document_is_refused_when_its_numbers_cannot_mean_anything(models, changed):
    files = models["binary"].files
    document = json.dumps(json.loads(files["model.json"]) | changed).encode()
    with pytest.raises(ModelTextError):
        TrainedModel.from_files(files["model.lgb"], document)


def test_poisoned_file_is_refused_within_seconds_of_the_processor_when_it_keeps_its_child_busy(
    models, monkeypatch, tmp_path
):
    """Seconds of the processor: a busy machine may take as long as it likes."""
    _have_child_run(monkeypatch, tmp_path, "while True: pass")
    monkeypatch.setattr(sandboxed_load, "STARVED_SECONDS", 0.3)
    before = _seconds_of_children()
    with pytest.raises(LoadTrialError, match="too long"):
        check_in_child(models["binary"].text, models["binary"].golden, library_path())
    assert _seconds_of_children() - before < 5


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_good_model_is_taken_when_the_machine_starved_its_first_child(
    models, monkeypatch, tmp_path
):
    ran, real = tmp_path / "ran", sandboxed_load_child.__file__
    _have_child_run(
        monkeypatch,
        tmp_path,
        f"import pathlib, runpy, time\nran = pathlib.Path({str(ran)!r})\n"
        "if not ran.exists(): ran.touch(); time.sleep(60)\n"
        f"runpy.run_path({real!r}, run_name='__main__')",
    )
    monkeypatch.setattr(sandboxed_load, "DEADLINE_SECONDS", 2.0)
    check_in_child(models["binary"].text, models["binary"].golden, library_path())
    assert ran.exists()


def test_nothing_is_said_about_the_model_when_every_child_is_starved(models, monkeypatch, tmp_path):
    ran = tmp_path / "ran"
    stopped = "os.kill(os.getpid(), signal.SIGSTOP)"
    _have_child_run(
        monkeypatch, tmp_path, f"import os, signal\nopen({str(ran)!r}, 'a').write('x')\n{stopped}"
    )
    monkeypatch.setattr(sandboxed_load, "DEADLINE_SECONDS", 0.5)
    with pytest.raises(LoadTimeoutError, match="too busy") as caught:
        check_in_child(models["binary"].text, models["binary"].golden, library_path())
    assert caught.value.is_retryable
    assert ran.read_text() == "xxxx"


def test_a_starved_load_is_tried_again_as_long_as_there_is_time():
    answers = [LoadTimeoutError("busy"), LoadTimeoutError("busy"), "a model"]

    def load():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry_starved(load, 60) == "a model"
    answers.append(LoadTimeoutError("busy"))
    with pytest.raises(LoadTimeoutError):
        retry_starved(load, -1)


def _have_child_run(monkeypatch, tmp_path, code):
    script = tmp_path / "child.py"
    script.write_text(code + "\n")
    monkeypatch.setattr(sandboxed_load_child, "__file__", str(script))
    monkeypatch.setattr(sandboxed_load, "proved", set())


def test_load_is_refused_when_the_child_takes_too_long(models, monkeypatch):
    monkeypatch.setattr(sandboxed_load, "DEADLINE_SECONDS", 0.001)
    with pytest.raises(LoadTimeoutError, match="too busy"):
        check_in_child(models["binary"].text, models["binary"].golden, library_path())


def test_load_is_refused_when_the_child_has_too_little_memory(models, monkeypatch):
    monkeypatch.setattr(sandboxed_load, "MEMORY_BYTES", 1 << 20)
    with pytest.raises(LoadTrialError) as refusal:
        check_in_child(models["binary"].text, models["binary"].golden, library_path())
    assert refusal.value.code == "NS-MODEL-004"


def test_child_knows_nothing_of_our_environment(models, monkeypatch, tmp_path):
    known = tmp_path / "known.json"
    _have_child_run(
        monkeypatch,
        tmp_path,
        "import json, os, pathlib, sys\n"
        "known = [sorted(os.environ), 'nightshift' in sys.modules]\n"
        f"pathlib.Path({str(known)!r}).write_text(json.dumps(known))",
    )
    monkeypatch.setenv("NIGHTSHIFT_WAREHOUSE_PASSWORD", "canary")
    with pytest.raises(LoadTrialError, match="incomplete answer"):
        check_in_child(models["binary"].text, models["binary"].golden, library_path())
    names, has_package = json.loads(known.read_text())
    assert {*names} <= {"OMP_NUM_THREADS", "LD_LIBRARY_PATH", "TMPDIR", "LC_CTYPE"}
    assert not has_package


def test_other_model_under_the_same_name_is_refused(models):
    binary, regression = models["binary"], models["regression"]
    assert (
        sha256(binary.files["model.lgb"]).digest() != sha256(regression.files["model.lgb"]).digest()
    )
    with pytest.raises(ModelTextError, match="do not belong together"):
        TrainedModel.from_files(regression.files["model.lgb"], binary.files["model.json"])
