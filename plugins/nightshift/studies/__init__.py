"""Studies over what is known: versions, training rows, and what features are worth."""
