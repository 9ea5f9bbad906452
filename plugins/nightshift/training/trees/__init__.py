"""Boosted trees: fit them here or on a Dask cluster, with checkpoints and binned rows on disk."""
