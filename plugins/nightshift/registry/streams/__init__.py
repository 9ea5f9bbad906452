"""Streams: the nightly scores of champion and challengers, and the evidence that they give."""
