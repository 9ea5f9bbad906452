"""From delivered text to typed rows: each row is good, repeated or refused with a reason."""
