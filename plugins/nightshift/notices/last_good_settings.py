"""The settings of notices that worked last, which are used while the file is wrong.

A typo in the file would silence every channel, and nobody would hear of the typo either.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.atomic_file import replacing
from nightshift.notices.notice_settings import (
    FILE_NAME,
    NoticeSettingsError,
    load_notice_settings,
)
from nightshift.notices.outage import FOLDER

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.notices.notice_settings import NoticeSettings
    from nightshift.settings import Settings


def usable_settings(settings: Settings) -> tuple[NoticeSettings, NoticeSettingsError | None]:
    """Return the settings of the file, or those that worked last and what is wrong with the file.

    Raises:
        NoticeSettingsError: The file is wrong, and none has worked here before.
    """
    # The rules read raw files; DAG files, which import this module, must stay light.
    from nightshift.incidents.rules.files import restore_command

    path = settings.notices_file or settings.dags_dir / FILE_NAME
    kept = _kept_path(settings, path)
    try:
        notices = load_notice_settings(settings)
        _refuse_lost_file(path, kept)
    except NoticeSettingsError as error:
        if not kept.is_file():
            raise
        command = restore_command(path.parent, path.name)
        # Without version control the page of the code has to do.
        if command.startswith("git "):
            error.command = command
        earlier = settings.model_copy(update={"notices_file": kept})
        return load_notice_settings(earlier), error
    _keep(path, kept)
    return notices, None


def _refuse_lost_file(path: Path, kept: Path) -> None:
    """Refuse to tell nobody since a file is gone that was there.

    Raises:
        NoticeSettingsError: It is gone.
    """
    is_lost = kept.is_file() and not path.is_file()
    if is_lost:
        raise NoticeSettingsError(
            f"{path.name} is gone.",
            expected=f"the settings of notices in {path}",
            todo="Bring it back; a file with `{}` tells nobody.",
        )


def _kept_path(settings: Settings, path: Path) -> Path:
    # Of several files each has its own.
    name = str(path.absolute())
    digest = sha256(name.encode()).hexdigest()[:12]
    return settings.home / FOLDER / f"settings-{digest}.yaml"


def _keep(path: Path, kept: Path) -> None:
    """Keep a file that works; it refers to secrets and holds none."""
    if not path.is_file():
        return
    content = path.read_bytes()
    is_kept = kept.is_file() and kept.read_bytes() == content
    if is_kept:
        return
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Complete or not at all: a half file would be the one that is needed.
    with replacing(kept) as draft:
        draft.write_bytes(content)
