"""Checks that stop a run: contracts, expectation suites, quarantine, profiles."""
