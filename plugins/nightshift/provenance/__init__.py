"""Where published predictions come from, and the proof: made again from what was known, bit by bit."""
