"""What a reader asks for in an address, and the answer when there is no such page."""

from __future__ import annotations

import datetime as dt

from nightshift.errors import NightshiftError

FIRST_DAY, LAST_DAY = dt.date(1900, 1, 1), dt.date(2999, 12, 31)
"""Days that an address may name: a map or a calendar reaches some days beyond them."""


class MissingPageError(NightshiftError):
    """The address names a model, dataset, day or page that does not exist."""

    code = "NS-PAGE-003"


def parse_day(text: str) -> dt.date:
    """Read a day of an address.

    Raises:
        MissingPageError: It is no day ``YYYY-MM-DD``, or out of reach.
    """
    try:
        # Any text may stand in an address; the message shows a part of it, escaped by the page.
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise MissingPageError(
            "The address has no day.", expected="YYYY-MM-DD", got=repr(text[:40])
        ) from None
    if not FIRST_DAY <= day <= LAST_DAY:
        raise MissingPageError(
            "The address has no day.", expected=f"{FIRST_DAY} to {LAST_DAY}", got=str(day)
        )
    return day
