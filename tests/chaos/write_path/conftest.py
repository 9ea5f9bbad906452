"""The tables of the integration tests of the write path."""

from tests.hand_made_features import hand_made_features
from tests.integration.warehouse.conftest import tables

__all__ = ["hand_made_features", "tables"]
