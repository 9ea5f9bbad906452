"""Model versions, and who is champion since when."""
