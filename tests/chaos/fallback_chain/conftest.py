"""The parcels' world of the scoring tests.

With a list of entities and nights that went well before.
"""

from tests.integration.scoring.conftest import registry, scoring_settings, spec, warehouse
from tests.integration.scoring.test_deadline_fallback import listed_spec, lists

__all__ = ["listed_spec", "lists", "registry", "scoring_settings", "spec", "warehouse"]
