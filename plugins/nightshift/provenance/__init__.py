"""Provenance of published predictions, and their replay bit by bit from what was known."""
