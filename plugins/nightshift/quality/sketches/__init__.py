"""Mergeable summaries of columns: counts, exact sums, quantiles and distinct values."""
