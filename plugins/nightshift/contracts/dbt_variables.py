"""Variables of ``dbt_project.yml`` that Python needs too: the file is their only source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from nightshift.settings import PROJECT_ROOT


def dbt_folder() -> Path:
    """Return the folder of the dbt project, as ``Settings.dbt_project_dir`` names it."""
    return _folder(os.environ.get("NIGHTSHIFT_DBT_PROJECT_DIR"))


# Every partition asks for its timezone, so the path is made once.
@cache
def _folder(named: str | None) -> Path:
    return Path(named or PROJECT_ROOT / "dbt_project")


def dbt_variable(name: str) -> object:
    """Return the value of a variable; None if the project has none of this name."""
    return _variables(dbt_folder()).get(name)


@cache
def _variables(folder: Path) -> Mapping[str, object]:
    import yaml

    document = yaml.safe_load((folder / "dbt_project.yml").read_text(encoding="utf-8"))
    return document.get("vars") or {}
