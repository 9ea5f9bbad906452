"""The command line is quick to start and prints errors with their code."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

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


def test_each_command_has_a_file_of_its_name_in_the_folder_of_its_panel():
    commands = get_command(module.app).commands
    files = {
        f"{command.rich_help_panel.lower()}/{name.replace('-', '_')}.py"
        for name, command in commands.items()
    }
    folder = Path(module.__file__).parent
    assert files == {
        str(path.relative_to(folder)) for path in folder.glob("*/*.py") if path.stem != "__init__"
    }


def test_the_summary_of_each_command_is_one_sentence_of_one_line():
    for name, command in get_command(module.app).commands.items():
        summary = command.help.splitlines()[0]
        assert summary.endswith("."), name
        assert len(summary) <= 100, name
