"""Move many rows as Arrow in and out of the warehouse: fast paths, each with a plain fallback."""
