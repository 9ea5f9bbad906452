"""The world of the gate's tests: 46 days of parcels, and versions that were fitted on them."""

from __future__ import annotations

from tests.integration.registry.conftest import court, empty_court, hand_made_features

__all__ = ["court", "empty_court", "hand_made_features"]
