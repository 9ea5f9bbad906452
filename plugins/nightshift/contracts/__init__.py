"""What partitions, datasets, models and runs are: frozen types, read once, no I/O but their own YAML."""
