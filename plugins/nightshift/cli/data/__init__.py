"""Commands that bring data in, check it and repair it."""
