"""What late and corrected data touches, and doing that again in order."""
