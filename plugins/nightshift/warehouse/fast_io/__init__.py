"""Move many rows as Arrow in and out of the warehouse: fast paths, each with a plain fallback.

Callers use ``arrow_io`` and ``copy_stream`` only. ``libpq`` is the one module that touches private
parts of psycopg, and ``binary_rows`` the one that parses the wire format. When a private part is
missing or has changed, psycopg's own COPY takes its place; when loops cannot be compiled, or a
type is unknown, the ADBC driver reads the rows, or COPY takes them as CSV.
"""
