"""Variables of ``dbt_project.yml`` that Python needs too: the file is their only source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from nightshift.settings import ProjectSettings, named_home


def dbt_folder() -> Path:
    """Return the folder of the dbt project, the one of ``load_settings().dbt_project_dir``."""
    return _folder(os.environ.get("NIGHTSHIFT_DBT_PROJECT_DIR"), named_home() / "env")


# Every partition asks for its timezone, so the file is read once.
@cache
def _folder(_named: str | None, env_file: Path) -> Path:
    # The whole settings would need a warehouse, and Airflow parses DAGs without one.
    existing = env_file if env_file.is_file() else None
    return ProjectSettings(_env_file=existing).dbt_project_dir


def dbt_variable(name: str) -> object:
    """Return the value of a variable; None if the project has none of this name."""
    return _variables(dbt_folder()).get(name)


@cache
def _variables(folder: Path) -> Mapping[str, object]:
    import yaml

    document = yaml.safe_load((folder / "dbt_project.yml").read_text(encoding="utf-8"))
    return document.get("vars") or {}
