"""The small world of the monitor's tests, with a champion."""

from tests.integration.monitoring.conftest import (
    champion_state,
    hand_made_features,
    history_state,
    no_report,
    world,
)

__all__ = ["champion_state", "hand_made_features", "history_state", "no_report", "world"]
