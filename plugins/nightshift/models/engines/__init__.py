"""Engines that compute raw scores: LightGBM, and QuickScorer where it is proved equal."""
