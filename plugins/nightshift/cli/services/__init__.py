"""Commands that run the local services and prepare the warehouse."""
