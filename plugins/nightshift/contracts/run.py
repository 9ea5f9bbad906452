"""Who is running: the identity that every write, log line and ledger row carries."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from nightshift.settings import LIBRARY_ROOT, PROJECT_ROOT

_NAME_BYTES = 63
_CODE_SUFFIXES = {".py", ".sql", ".yml", ".yaml", ".json"}
_PROJECT_FOLDERS = ("dbt_project", "dags", "expectations")


@dataclass(frozen=True)
class RunContext:
    """Identify one attempt of one run.

    Attributes:
        run_id: Stable over attempts of the same run, for example
            ``score__churn/2013-07-01``.
        attempt: 1 for the first try.
        actor: Who started it: ``airflow``, ``cli:<user>`` or ``test``.
    """

    run_id: str
    attempt: int = 1
    actor: str = "cli"

    @property
    def application_name(self) -> str:
        """Return the name that the warehouse shows for our connections.

        PostgreSQL keeps 63 bytes; two attempts never share a name.
        """
        name = f"nightshift {self.run_id}"
        attempt = f"#{self.attempt}"
        if len(name.encode() + attempt.encode()) <= _NAME_BYTES:
            return name + attempt
        # Two long runs that begin alike differ by the digest of their complete names.
        digest = sha256(self.run_id.encode()).hexdigest()[:6]
        attempt = f"~{digest}{attempt}"
        # The cut may fall into a character of several bytes, whose first bytes are dropped.
        kept = name.encode()[: _NAME_BYTES - len(attempt)]
        return kept.decode(errors="ignore") + attempt


@cache
def code_version() -> str:
    """Return the version of the running code.

    It is the commit of the checkout, ``<commit>-dirty.<digest>`` with local changes, and a digest
    of the code without git. ``NIGHTSHIFT_CODE_VERSION`` wins: an image sets it at build time.
    """
    image_version = os.environ.get("NIGHTSHIFT_CODE_VERSION")
    if image_version:
        return image_version
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return f"tree.{_code_digest()}"
    # Only folders of code: a note next to it does not make other code of it.
    folders = map(str, _code_folders())
    changes = _git("status", "--porcelain", "--", *folders)
    return commit if changes == "" else f"{commit}-dirty.{_code_digest()}"


def _code_folders() -> list[Path]:
    """Return where the code is: the library, which may be installed elsewhere, and the project."""
    return [LIBRARY_ROOT / "nightshift", *(PROJECT_ROOT / name for name in _PROJECT_FOLDERS)]


def _git(*args: str) -> str | None:
    try:
        result = subprocess.run(  # noqa: S603
            ["git", "-C", str(PROJECT_ROOT), *args],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _code_digest() -> str:
    digest = sha256()
    for folder in _code_folders():
        for path in sorted(folder.rglob("*")):
            if path.suffix in _CODE_SUFFIXES and "target" not in path.parts:
                name = str(path.relative_to(folder)).encode()
                digest.update(name + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
