"""The tables of the integration tests of the write path."""

from tests.integration.warehouse.conftest import tables

__all__ = ["tables"]
