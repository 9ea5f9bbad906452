"""Metrics for Prometheus: read from documented views, served over HTTP or written as a file."""
