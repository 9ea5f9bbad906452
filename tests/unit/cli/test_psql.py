"""Options of psql reach psql."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nightshift.cli.app import app


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], []),
        (["-c", "select 1"], ["-c", "select 1"]),
        (
            ["--csv", "-c", "select 1", "-c", "select 2"],
            ["--csv", "-c", "select 1", "-c", "select 2"],
        ),
        (["-f", "a.sql", "-f", "b.sql"], ["-f", "a.sql", "-f", "b.sql"]),
        (["-f", "a.sql", "-c", "select -1"], ["-f", "a.sql", "-c", "select -1"]),
        (
            ["-x", "-c", "-- no", "--role", "nightshift", "-At", "-o", "a.txt", "--pset=null=?"],
            ["-x", "-c", "-- no", "-At", "-o", "a.txt", "--pset=null=?"],
        ),
    ],
    ids=["none", "a statement", "statements as csv", "files", "in their order", "any option"],
)
def test_options_are_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: list[str], passed: list[str]
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path))
    monkeypatch.setenv("NIGHTSHIFT_WAREHOUSE_HOST", "localhost")
    called: list[list[str]] = []
    monkeypatch.setattr(
        os, "execve", lambda _program, arguments, _environment: called.append(arguments)
    )
    done = CliRunner().invoke(app, ["psql", *given])
    assert done.exit_code == 0, done.output
    [arguments] = called
    assert Path(arguments[0]).name == "psql"
    assert arguments[1:] == ["-v", "ON_ERROR_STOP=1", *passed]
