"""The DAG that gives traces and lineage to receivers."""
