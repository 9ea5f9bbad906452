"""Read a folder of YAML documents file by file: a wrong file never takes away the rest.

Source: docs/adr/0039-one-wrong-file.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from nightshift.contracts.yaml_document import NamedDocument, read_document
from nightshift.errors import SpecError

DocumentT = TypeVar("DocumentT")
NamedT = TypeVar("NamedT", bound=NamedDocument)


@dataclass(frozen=True)
class DocumentFolder(Generic[DocumentT]):
    """The documents of a folder and the problems of its files.

    Attributes:
        documents: The valid documents, by name in alphabetical order.
        problems: What is wrong with each of the other files, by file name.
    """

    documents: dict[str, DocumentT]
    problems: dict[str, SpecError]

    @property
    def broken(self) -> dict[str, SpecError]:
        """Return the names for which there is only a wrong file, and what is wrong with it."""
        # A wrong `x.yml` next to a good `x.yaml` does not make x broken.
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

    Raises:
        SpecError: The folder itself cannot be listed.
    """
    documents: dict[str, DocumentT] = {}
    problems: dict[str, SpecError] = {}
    for path in _list_files(folder):
        # Somebody meant x.yml and x.YAML to be read: they are refused below, not passed over.
        if path.suffix.lower() not in {".yml", ".yaml"} or path.name.startswith("."):
            continue
        if not path.name.isprintable():
            # Half a character can be neither printed nor stored, and a line end forges a log.
            name = ascii(path.name)[1:-1]
            problems[name] = SpecError(
                f"{name} is no name of a file that can be shown.",
                expected="letters, digits and _, ending in .yaml",
                todo="Rename the file, or take it out of the folder.",
            )
            continue
        try:
            _refuse_ending(path)
            documents[path.stem] = read(path.stem)
        except SpecError as error:
            problems[path.name] = error
        except Exception as error:  # noqa: BLE001  (whatever a file holds: it harms only itself)
            problems[path.name] = SpecError(
                f"{path.name} cannot be read.",
                got=type(error).__name__,
                todo="Correct the file, or take it out of the folder.",
            )
    return DocumentFolder(documents, problems)


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise SpecError(
            f"The folder {folder} cannot be listed.",
            got=error.strerror,
            todo="Correct its rights.",
        ) from None


def read_named(folder: Path, name: str, model: type[NamedT], noun: str) -> NamedT:
    """Read one document, ``<folder>/<name>.yaml``; ``noun`` is what it describes, for people.

    Raises:
        SpecError: It is absent or wrong, or its name is not the file's.
    """
    document = read_document(folder / f"{name}.yaml", model)
    if document.name != name:
        raise SpecError(
            f"{name}.yaml names the {noun} {document.name!r}.",
            expected=name,
            todo=f"Rename the file or the {noun}; take a copy out of the folder.",
        )
    return document


def combined_error(problems: Iterable[SpecError]) -> SpecError:
    """Return one error that names all problems; at least one."""
    errors = list(problems)
    # A single error keeps its own code and advice.
    if len(errors) == 1:
        return errors[0]
    sentences = []
    for error in errors:
        got = "" if error.got is None else f" ({error.got})"
        sentences.append(f"{error.what}{got}")
    return SpecError(
        f"{len(errors)} files cannot be used:\n  " + "\n  ".join(sentences),
        todo="Correct each file, or take it out of the folder; all others are in use.",
    )


def _refuse_ending(path: Path) -> None:
    if path.suffix != ".yaml":
        raise SpecError(
            f"{path.name} is not read: its name does not end in .yaml.",
            expected=f"{path.stem}.yaml",
            todo="Rename the file, or take it out of the folder.",
        )
