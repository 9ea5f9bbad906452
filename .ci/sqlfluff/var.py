"""dbt's ``var()`` for sqlfluff's Jinja templater, which imports it by name: a callable module.

The values only have to be of the right type, so that every branch of the SQL is rendered and
linted.
"""

from __future__ import annotations

import sys
from types import ModuleType

VALUES = {
    "delayed_minutes": 15,
    "lookback_days": 28,
    "operating_timezone": "America/New_York",
}


class CallableModule(ModuleType):
    """A module that is called like dbt's ``var()``."""

    def __call__(self, name: str, default: object = None) -> object:
        """Return a plausible value of a dbt variable."""
        return VALUES.get(name, "1" if default is None else default)


sys.modules[__name__].__class__ = CallableModule
