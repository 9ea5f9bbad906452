"""Statistics of a model comparison: block bootstrap over days, confidence intervals, figures."""
