"""Read a folder of YAML documents file by file: a wrong file never takes the others away.

Source: docs/adr/0039-one-wrong-file.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from nightshift.errors import SpecError

DocumentT = TypeVar("DocumentT")

_MISSPELT_ENDINGS = frozenset({".yml", ".yaml"})
"""Endings, in lower case, of files that somebody meant to be read."""


@dataclass(frozen=True)
class DocumentFolder(Generic[DocumentT]):
    """What a folder holds.

    Attributes:
        documents: The documents that can be used, by name in alphabetical order.
        problems: What is wrong with each of the other files, by file name.
    """

    documents: dict[str, DocumentT]
    problems: dict[str, SpecError]

    @property
    def broken(self) -> dict[str, SpecError]:
        """Return the names for which there is only a wrong file, and what is wrong with it."""
        by_name = {Path(file).stem: error for file, error in self.problems.items()}
        return {name: error for name, error in by_name.items() if name not in self.documents}

    def require_all(self) -> dict[str, DocumentT]:
        """Return all documents.

        Raises:
            SpecError: A file is wrong; the message names all of them.
        """
        if self.problems:
            raise combined_error(self.problems.values())
        return self.documents


def read_folder(folder: Path, read: Callable[[str], DocumentT]) -> DocumentFolder[DocumentT]:
    """Read every ``*.yaml`` of a folder.

    What editors leave behind (hidden files, ``x.yaml~``, ``#x.yaml#``) is passed over.

    Args:
        folder: The folder; one that does not exist holds nothing.
        read: Reads the document of a name.
    """
    documents: dict[str, DocumentT] = {}
    problems: dict[str, SpecError] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in _MISSPELT_ENDINGS or path.name.startswith("."):
            continue
        try:
            _refuse_ending(path)
            documents[path.stem] = read(path.stem)
        except SpecError as error:
            problems[path.name] = error
        except Exception as error:  # noqa: BLE001  (whatever a file holds: it harms only itself)
            problems[path.name] = _unreadable(path, error)
    return DocumentFolder(documents, problems)


def combined_error(problems: Iterable[SpecError]) -> SpecError:
    """Return one error that says what all of these say; at least one."""
    errors = list(problems)
    if len(errors) == 1:
        return errors[0]
    return SpecError(
        f"{len(errors)} files cannot be used:\n  " + "\n  ".join(map(_sentence, errors)),
        todo="Correct each file, or take it out of the folder; all others are in use.",
    )


def _refuse_ending(path: Path) -> None:
    if path.suffix != ".yaml":
        raise SpecError(
            f"{path.name} is not read: its name does not end in .yaml.",
            expected=f"{path.stem}.yaml",
            todo="Rename the file, or take it out of the folder.",
        )


def _unreadable(path: Path, error: Exception) -> SpecError:
    return SpecError(
        f"{path.name} cannot be read.",
        got=type(error).__name__,
        todo="Correct the file, or take it out of the folder.",
    )


def _sentence(error: SpecError) -> str:
    return error.what if error.got is None else f"{error.what} ({error.got})"
