"""What a reader asks for in an address, and the answer when there is no such page."""

from __future__ import annotations

import datetime as dt

from nightshift.errors import NightshiftError


class MissingPageError(NightshiftError):
    """The address names a model, dataset, day or page that does not exist."""

    code = "NS-PAGE-003"


def parse_day(text: str) -> dt.date:
    """Read a day of an address.

    Raises:
        MissingPageError: It is no day ``YYYY-MM-DD``.
    """
    try:
        # Any text may stand in an address; the message shows a part of it, escaped by the page.
        return dt.date.fromisoformat(text)
    except ValueError:
        raise MissingPageError(
            "The address has no day.", expected="YYYY-MM-DD", got=repr(text[:40])
        ) from None
