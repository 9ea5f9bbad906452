"""The upstream system, played on a virtual clock."""
