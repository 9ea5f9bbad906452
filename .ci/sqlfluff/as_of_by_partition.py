"""The macro ``as_of_by_partition()`` for sqlfluff's Jinja templater; this module is callable."""

from __future__ import annotations

import sys
from types import ModuleType

PARTITIONS = {"2013-01-30": "2013-01-31 05:30:00+00"}


class CallableModule(ModuleType):
    """A module that is called like the macro."""

    def __call__(self) -> dict[str, str]:
        """Return one partition and its knowledge cut-off."""
        return PARTITIONS


sys.modules[__name__].__class__ = CallableModule
