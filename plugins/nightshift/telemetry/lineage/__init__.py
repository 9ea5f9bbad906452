"""Lineage of loads and trainings as events of the OpenLineage standard."""
