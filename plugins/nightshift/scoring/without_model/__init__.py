"""Predictions for partitions that no model scores: last scores, the rule, the list of entities."""
