"""What an input fault must exceed; each limit has its unit and its reason."""

from __future__ import annotations

UNSEEN = 0.5
"""Share of a column's distinct values that other nights had too; less is another grid."""
NEW_MISSING = 0.003
"""Share of rows that must be newly missing."""
REPEATED = 0.9
"""Share of a column's distinct values that the night before had too, from which it is frozen."""
RARE = 0.02
"""Share of the training partitions in which such a thing may have happened by itself."""
MOST_ZEROS = 0.9
"""Share of zeros from which a column is said to be zeros."""
FEW_VALUES = 3
"""A column with so few values on a usual night may have one by chance."""
OFTEN = 0.2
"""Share of the training partitions from which repeated values tell nothing."""
MANY_VALUES = 10
"""A column that has had so many times the values of one night takes them by turns."""
STILL = 0.01
"""A mean that moved by so little of its usual variation between nights has stood still."""
MINUTES_AN_HOUR, MINUTES_A_DAY = 60, 1440
BOUNDED = (0.2, 3.0)
"""A column whose nights stay within these multiples of its median has a range."""
FAR_OUTSIDE = 3.0
"""So many times beyond an end of the range, and beyond what is expected, is another unit."""
UNDONE_LIMIT = 5.0
"""Usual steps within which a column must be once a fault is undone, to be named by it."""
MIN_LEVEL_ROWS = 4
"""Fewest rows a night of a level whose absence is a fault."""
NEW_LEVEL_SHARE = 0.02
UNITS = (
    ("miles and kilometres", 1.609344),
    ("feet and metres", 3.28084),
    ("inches and centimetres", 2.54),
    ("inches and millimetres", 25.4),
    ("pounds and kilograms", 2.20462),
    ("knots and miles per hour", 1.150779),
    ("knots and metres per second", 1.943844),
    ("miles per hour and metres per second", 2.236936),
    ("kilometres per hour and metres per second", 3.6),
    ("inches of mercury and millibars", 33.8639),
    ("fractions and percents", 100.0),
    ("units and thousands", 1000.0),
    ("minutes and hours", 60.0),
    ("hours and days", 24.0),
    ("seconds and hours", 3600.0),
)
