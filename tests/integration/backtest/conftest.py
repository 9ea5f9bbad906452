"""Features are made by hand here."""

from tests.hand_made_features import hand_made_features

__all__ = ["hand_made_features"]
