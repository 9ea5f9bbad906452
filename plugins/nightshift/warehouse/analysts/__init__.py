"""Analysts in the warehouse: what they may read, their limits, and the end of blocking sessions."""
