"""Relations of the warehouse: their columns, and the views that analysts read."""
