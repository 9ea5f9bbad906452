"""Traces and lineage events of nights, made from the ledger after the fact."""
