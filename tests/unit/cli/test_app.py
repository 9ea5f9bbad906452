"""The command line is quick to start and prints errors with their code."""

import subprocess
import sys

import pytest

from nightshift.cli import app as module
from nightshift.errors import ServiceError


def test_heavy_packages_are_not_imported_when_help_is_shown():
    heavy = {"airflow", "mlflow", "pandas", "lightgbm", "boto3"}
    program = f"import sys, nightshift.cli.app; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_error_is_printed_with_code_and_without_traceback_when_command_fails(monkeypatch, capsys):
    def fail(**_):
        raise ServiceError("It broke.", todo="Mend it.")

    monkeypatch.setattr(module, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "[NS-SERVICE-001] It broke.\n  to do:    Mend it.\n"
