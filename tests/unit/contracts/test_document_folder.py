"""A file of a folder of specs or contracts is wrong in some way.

The others are read, and it is named.
"""

from __future__ import annotations

import os
import shutil
import stat
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
    "a mark and UTF-16 after it": b"\xef\xbb\xbf" + GOOD.decode().encode("utf-16-le"),
    "a key that is a list": GOOD + b"? [a, b]\n: c\n",
    "a key that is a number": GOOD + b"1: x\n",
    "a key that is empty": GOOD + b"'': x\n",
    "a key twice, once in quotes": GOOD + b'"task": binary\n',
    "a key twice further down": GOOD.replace(
        b"scoring:\n", b"scoring:\n  shards: 2\n  shards: 3\n"
    ),
    "a set": b"!!set {a, b}\n",
    "bytes": GOOD.replace(b"owner: ", b"owner: !!binary "),
    "NUL in a value": GOOD.replace(b"owner: ", b"owner: a\0b"),
    "half a character": GOOD.replace(b"owner: ", b"owner: \xed\xa0\x80"),
    "a line end of another kind": GOOD.replace(b"\n", b"\x0b"),
    "an endless number": GOOD.replace(b"shards: ", b"shards: .inf # "),
    "a number of a million digits": GOOD + b"n: " + b"9" * 900_000 + b"\n",
    "a merge of itself": GOOD + b"x: &x {<<: *x}\n",
    "a merge of a text": GOOD + b"<<: text\n",
    "fifty megabytes": b"# x\n" * 13_000_000,
    "fifty megabytes on one line": b"name: " + b"x" * 50_000_000,
    "an archive": b"PK\x03\x04" + bytes(range(256)) * 8,
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


def _link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop_of_two(path: Path) -> None:
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def _link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to(path.with_name("pipe"))


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


NO_FILES = [
    *(Path.mkdir, _link, _loop, os.mkfifo),
    *(_link_to_zeros, _loop_of_two, _link_to_a_pipe, _socket),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", NO_FILES)
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


@pytest.mark.parametrize("kind", ["a directory", "a pipe"])
def test_another_ending_of_what_is_no_file_harms_only_itself(models: Path, kind: str) -> None:
    (Path.mkdir if kind == "a directory" else os.mkfifo)(models / "x.yml")
    found = read_specs(models)
    assert (len(found.documents), list(found.problems)) == (2, ["x.yml"])


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.yaml", b"a\nb.yaml", b"\x1b[2J.yaml", "\u202egpj.yaml".encode(), b"\r.yaml"]
)
def test_a_name_that_cannot_be_shown_is_named_in_letters_that_can(
    models: Path, name: bytes
) -> None:
    """Half a character in a name has ended whatever printed or stored it."""
    (models / os.fsdecode(name)).write_bytes(GOOD)
    found = read_specs(models)
    assert len(found.documents) == 2
    ((shown, problem),) = found.problems.items()
    assert f"{shown}{problem}{found.broken}".replace("\n", "").isprintable()
    assert f"{shown}{problem}".isascii()


@pytest.mark.skipif(os.geteuid() == 0, reason="root lists every folder")
def test_a_folder_that_may_not_be_listed_has_a_code(models: Path) -> None:
    models.chmod(0)
    try:
        with pytest.raises(SpecError, match="cannot be listed"):
            read_specs(models)
    finally:
        models.chmod(0o700)


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
