"""The page of people's acts: who did what and why, by whichever door, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightshift.page.reader import PageSnapshot

MAX_ACTS = 200
_ACTS = """
select act_id, at, door, name, actor, reason, arguments, outcome, code, ended_at
from ops.people_acts
where %(actor)s::text is null or actor = %(actor)s
order by at desc, act_id desc limit %(limit)s
"""


def acts_document(snapshot: PageSnapshot, actor: str | None) -> dict[str, Any]:
    """Return the newest acts, of one person if a name is given; None if nothing records them."""
    # None, unlike an empty list, says that nothing records acts.
    acts = None
    if snapshot.has("ops.people_acts"):
        acts = snapshot.rows(_ACTS, {"actor": actor, "limit": MAX_ACTS})
    return {"actor": actor, "acts": acts}
