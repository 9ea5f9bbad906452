"""Expectation suites, parsed once, and their evaluators."""
