"""dbt's ``var()`` for sqlfluff's Jinja templater, which imports it by name: a callable module.

The values are those of ``dbt_project.yml``, so that every branch of the SQL is rendered and linted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import yaml

PROJECT = Path(__file__).parents[2] / "dbt_project" / "dbt_project.yml"
VALUES = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))["vars"]


class CallableModule(ModuleType):
    """A module that is called like dbt's ``var()``."""

    def __call__(self, name: str) -> object:
        """Return the value that the project gives a variable."""
        return VALUES[name]


sys.modules[__name__].__class__ = CallableModule
