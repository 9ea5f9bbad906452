"""Variables of ``dbt_project.yml`` that Python needs too: the file is their only source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from nightshift.errors import SettingsError
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


def lookback_days() -> int:
    """Return how many partitions before its own a feature may need.

    Trailing windows reach back that far, and a partition waits for the drops of these days. Source:
    docs/adr/0001-time.md.

    Raises:
        SettingsError: The variable is missing, or is no whole number from 1 on.
    """
    days = dbt_variable("lookback_days")
    # True is an integer in Python, and no number of days.
    if not isinstance(days, int) or isinstance(days, bool) or days < 1:
        raise SettingsError(
            "The look-back of the dbt project is no number of days.",
            expected="vars.lookback_days, a whole number from 1 on",
            got=repr(days),
            todo=f"Correct it in {dbt_folder() / 'dbt_project.yml'}.",
        )
    return days
