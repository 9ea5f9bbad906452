"""Commands for operators: deadlines, stuck runs, analysts."""
