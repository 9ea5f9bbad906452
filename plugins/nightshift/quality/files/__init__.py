"""Readers of delivered files: CSV, compressed CSV and Parquet become blocks of text rows."""
