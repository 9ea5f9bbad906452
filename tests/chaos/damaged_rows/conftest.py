"""The worlds of the integration tests: of the write path, and of the parcels that are scored."""

from tests.integration.scoring.conftest import (
    parcel_templates,
    registry,
    scoring_settings,
    settings,
    spec,
    warehouse,
)
from tests.integration.scoring.test_deadline_fallback import listed_spec, lists
from tests.integration.warehouse.conftest import tables, write_day

__all__ = [
    "listed_spec",
    "lists",
    "parcel_templates",
    "registry",
    "scoring_settings",
    "settings",
    "spec",
    "tables",
    "warehouse",
    "write_day",
]
