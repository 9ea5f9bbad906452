"""A file of a folder of specs or contracts is wrong in some way.

The others are read, and it is named.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nightshift.contracts.datasets import read_contracts
from nightshift.contracts.model_spec import load_specs, read_specs
from nightshift.errors import SpecError
from nightshift.settings import PROJECT_ROOT

DAGS = PROJECT_ROOT / "dags"
GOOD = (DAGS / "models" / "flight_delayed.yaml").read_bytes()
CONTRACT = (DAGS / "datasets" / "planes.yaml").read_bytes()
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n" % (i, i, *[i - 1] * 9)
    for i in range(ord("b"), ord("m"))
)
WRONG = {
    "empty": b"",
    "blank": b"\n\n  \n",
    "only a comment": b"# soon\n",
    "binary": bytes(range(256)) * 20,
    "zeros": b"\0" * 4096,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "Latin-1": GOOD.replace(b"description: ", b"description: caf\xe9 "),
    "half written": GOOD[: len(GOOD) // 2],
    "an unknown key": GOOD + b"unheard_of: 1\n",
    "a key twice": GOOD + b"task: binary\n",
    "a list": b"- a\n- b\n",
    "a word": b"hello\n",
    "conflict marks": b"<<<<<<< HEAD\n" + GOOD + b"=======\n" + GOOD + b">>>>>>> other\n",
    "tabs": GOOD.replace(b"  schedule", b"\tschedule"),
    "aliases of aliases": BOMB,
    "aliases of aliases in a list": b"features: {numeric: *x}\n".replace(b"*x", b"[x]") + BOMB,
    "an alias of itself": b"name: &a [*a]\n",
    "deep brackets": b"[" * 200_000,
    "deep braces": b"{a: " * 200_000,
    "deep lists": b"- " * 200_000 + b"x\n",
    "deep keys": b"? " * 200_000 + b"x\n",
    "very large": b"# " + b"x" * 3_000_000,
    "a tag of Python": b"!!python/object/apply:os.system ['true']\n",
    "several documents": GOOD + b"---\n" + GOOD,
    "another name": GOOD,
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(DAGS / "models", folder)
    return folder


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_spec_harms_only_itself_and_is_named(models: Path, kind: str) -> None:
    (models / "broken.yaml").write_bytes(WRONG[kind])
    found = read_specs(models)
    assert sorted(found.documents) == ["arrival_delay_minutes", "flight_delayed"]
    assert list(found.problems) == ["broken.yaml"]
    assert "broken.yaml" in str(found.problems["broken.yaml"])
    assert len(str(found.problems["broken.yaml"])) < 10_000


@pytest.mark.parametrize("kind", ["empty", "binary", "half written", "deep lists", "a list"])
def test_a_wrong_contract_harms_only_itself_and_is_named(tmp_path: Path, kind: str) -> None:
    shutil.copytree(DAGS / "datasets", tmp_path / "datasets")
    (tmp_path / "datasets" / "weather.yaml").write_bytes(WRONG[kind])
    found = read_contracts(tmp_path / "datasets")
    assert len(found.documents) == 5
    assert list(found.broken) == ["weather"]
    assert "weather.yaml" in str(found.broken["weather"])


def _link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere.yaml")


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [Path.mkdir, _link, _loop, os.mkfifo])
def test_what_is_no_file_harms_only_itself(models: Path, make: Callable[[Path], None]) -> None:
    make(models / "broken.yaml")
    found = read_specs(models)
    assert len(found.documents) == 2
    assert list(found.problems) == ["broken.yaml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_harms_only_itself(models: Path) -> None:
    (models / "flight_delayed.yaml").chmod(0)
    found = read_specs(models)
    assert (list(found.documents), list(found.broken)) == (
        ["arrival_delay_minutes"],
        ["flight_delayed"],
    )


@pytest.mark.parametrize(
    "name",
    [
        "flight_delayed.yaml~",
        "#flight_delayed.yaml#",
        ".flight_delayed.yaml.swp",
        ".flight_delayed.yaml",
        "x.yaml.bak",
    ],
)
def test_what_editors_leave_behind_is_passed_over(models: Path, name: str) -> None:
    (models / name).write_bytes(GOOD[:100])
    found = read_specs(models)
    assert (len(found.documents), found.problems) == (2, {})


@pytest.mark.parametrize(
    "name",
    [
        "flight_delayed (copy).yaml",
        "Copy of flight_delayed.yaml",
        "flight_delayed_2.yaml",
        "flight_delayed.yml",
        "x.YAML",
    ],
)
def test_a_copy_is_named_and_the_original_stays(models: Path, name: str) -> None:
    (models / name).write_bytes(GOOD)
    found = read_specs(models)
    assert (len(found.documents), list(found.problems)) == (2, [name])
    assert name in str(found.problems[name])
    assert "flight_delayed" not in found.broken


def test_the_copy_of_a_contract_is_named(tmp_path: Path) -> None:
    (tmp_path / "aircraft.yaml").write_bytes(CONTRACT)
    problem = read_contracts(tmp_path).problems["aircraft.yaml"]
    assert "aircraft.yaml names the dataset 'planes'" in str(problem)


def test_whoever_needs_all_is_told_of_each_wrong_file(models: Path) -> None:
    (models / "first.yaml").write_text("")
    (models / "second.yaml").write_text("name: second\nunheard_of: 1\n")
    with pytest.raises(SpecError) as refusal:
        load_specs(models)
    assert "2 files cannot be used" in str(refusal.value)
    assert "first.yaml is not a mapping." in str(refusal.value)
    assert "second.yaml:2: unheard_of: expected a known key" in str(refusal.value)
