"""Typed, frozen documents and identities: partitions, datasets, models, runs; no I/O but YAML."""
