"""Statistics of a model comparison: block bootstrap over days, intervals, calibration slope."""
