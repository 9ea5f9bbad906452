"""Expectation suites: parsed once, then evaluated by SQL, on streamed rows or by Great Expectations."""
