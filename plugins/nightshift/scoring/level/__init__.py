"""The level of a partition's scores: moved by the newest mature nights, before publication."""
