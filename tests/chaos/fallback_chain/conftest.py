"""The parcels' world of the scoring tests.

With a list of entities and nights that went well before.
"""

from tests.integration.scoring.conftest import (
    parcel_templates,
    registry,
    scoring_settings,
    settings,
    spec,
    warehouse,
)
from tests.integration.scoring.test_deadline_fallback import listed_spec, lists

__all__ = [
    "listed_spec",
    "lists",
    "parcel_templates",
    "registry",
    "scoring_settings",
    "settings",
    "spec",
    "warehouse",
]
