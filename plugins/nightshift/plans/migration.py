"""Plan an upgrade of the warehouse; its token is a digest: an old warehouse keeps no plans."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import read_contracts
from nightshift.contracts.run import code_version
from nightshift.plans.plan import StalePlanError
from nightshift.warehouse.migrate import pending_changes

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_PREFIX = "migrate-"


@dataclass(frozen=True)
class PendingMigration:
    """What an upgrade would change.

    Attributes:
        token: Digest of code and changes; applied once, since nothing is pending afterwards.
        lines: The changes, one line each; empty where nothing is pending.
    """

    token: str
    lines: tuple[str, ...]


def is_migration(token: str) -> bool:
    """Return whether a token is one of an upgrade."""
    return token.startswith(_PREFIX)


def plan_migration(settings: Settings, conn: Connection) -> PendingMigration:
    """Return the pending changes; nothing is written."""
    contracts = read_contracts(settings.datasets_dir).documents
    lines = pending_changes(conn, contracts)
    content = "\n".join([code_version(), *lines])
    digest = sha256(content.encode()).hexdigest()[:12]
    return PendingMigration(f"{_PREFIX}{digest}", tuple(lines))


def refuse_stale_migration(
    settings: Settings,
    conn: Connection,
    token: str,
) -> None:
    """Refuse the token unless the very same changes are still pending.

    Raises:
        StalePlanError: Others are pending, or none.
    """
    pending = plan_migration(settings, conn)
    if pending.lines and pending.token == token:
        return
    raise StalePlanError(
        f"Plan {token} is stale: other changes are pending.",
        expected="the code, contracts and warehouse that the plan was made from",
        got="; ".join(pending.lines) or "nothing is pending",
        todo="Nothing was done. Plan again: `nightshift plan migrate`.",
    )
