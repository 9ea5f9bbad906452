"""The `nightshift` command: one file per subcommand, one folder per panel of its help."""
