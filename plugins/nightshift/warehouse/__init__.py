"""The warehouse: connections, the write path, the ledger, bulk copies, dbt."""
