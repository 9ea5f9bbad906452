"""Commands that give traces and lineage to other tools."""
