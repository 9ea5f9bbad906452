"""Exact Shapley values: what each feature adds to the raw score of a row."""
