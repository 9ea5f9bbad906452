"""Shadow scores: what the challengers would have said, never visible as predictions."""
