"""Columns of a partition against the partitions that the champion was trained on."""
