"""Addresses and objects that no page can show are missing pages, not errors of the server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nightshift.page.documents.requests import MissingPageError, parse_day
from nightshift.page.stored_pages import MAX_OBJECT_BYTES, StoredPage, read_page


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31", "1899-12-31", "2013-02-30", ""])
def test_a_day_out_of_reach_is_a_missing_page(text: str):
    with pytest.raises(MissingPageError):
        parse_day(text)
    assert str(parse_day("2013-03-04")) == "2013-03-04"


def test_the_body_of_an_object_that_is_too_large_is_never_read():
    # A store without `get`: reading would be an AttributeError.
    store: Any = SimpleNamespace(size=lambda _: MAX_OBJECT_BYTES + 1)
    with pytest.raises(MissingPageError, match="too large"):
        read_page(store, StoredPage("data_docs/x.html", "Checks"))
