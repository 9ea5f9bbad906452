"""The object store: drops in landing, immutable snapshots, artefacts."""
