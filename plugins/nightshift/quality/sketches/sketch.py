"""Mergeable summaries of a column: batches and days add up in any order, to the same bits.

Source: docs/adr/0026-profiles.md.
"""

from __future__ import annotations

from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.quality.sketches.text_sketch import TextSketch

Sketch = NumberSketch | TextSketch
