"""Find and read data files: bounded, and checked by the sha256 of their uncompressed content."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psgdsim.errors import DatasetError

DATA_DIR_VARIABLE = "PSGDSIM_DATA_DIR"


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Args:
        name: its name, uncompressed; a copy called `name.gz` is as good.
        nbytes: the length of its uncompressed content [byte].
        sha256: of its uncompressed content, in hexadecimal.
    """

    name: str
    nbytes: int
    sha256: str

    def read(self, path: Path) -> bytes:
        """Return the uncompressed content of a copy of this file; never reads more than it should be long.

        Raises:
            DatasetError: it cannot be read, or is not this file.
        """
        content = read_bounded(path, self.nbytes)
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DatasetError(
                f"{path}: damaged, or not the right file: expected sha256 {self.sha256} of the "
                f"uncompressed content; got {found} ({len(content)} of {self.nbytes} bytes)"
            )
        return content


def read_bounded(path: Path, limit: int) -> bytes:
    """Return a file's content, uncompressed if its name ends in `.gz`.

    Args:
        path: the file.
        limit: the most bytes that the uncompressed content may have.

    Raises:
        DatasetError: it cannot be read or uncompressed, or is longer.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from None
    if len(content) > limit:
        raise DatasetError(f"{path}: expected at most {limit} bytes of uncompressed content; there are more")
    return content


def search_folders(dataset: str, *system: str) -> list[Path]:
    """Return where the files of a data set are looked for, in order.

    These are `$PSGDSIM_DATA_DIR/DATASET` (with underscores or dashes), `$PSGDSIM_DATA_DIR` itself,
    `psgdsim/DATASET` in the user's cache (`$XDG_CACHE_HOME`, by default `~/.cache`), and the system's
    folders.

    Args:
        dataset: the data set's name.
        system: folders where packages of the operating system put it.
    """
    folders = []
    if given := os.environ.get(DATA_DIR_VARIABLE):
        root = Path(given)
        folders = [root / dataset, root / dataset.replace("_", "-"), root]
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        cache = Path(os.path.expanduser("~/.cache"))  # noqa: PTH111 (Path.expanduser fails without a home)
    folders += [cache / "psgdsim" / dataset, *map(Path, system)]
    return list(dict.fromkeys(folders))


def load_file(file: DataFile, folders: list[Path], advice: str) -> bytes:
    """Return the uncompressed content of a file, from the first folder that has the right one.

    Data sets share file names, so a folder may hold another set's file of that name; it is passed over.

    Args:
        file: which file.
        folders: where to look, in order.
        advice: how to get the data set, for messages.

    Raises:
        DatasetError: no folder has the file, or none has the right one; the message names every place.
    """
    problems = []
    for path in _existing(file.name, folders):
        try:
            return file.read(path)
        except DatasetError as error:
            problems.append(str(error))
    if not problems:
        unset = [] if os.environ.get(DATA_DIR_VARIABLE) else [f"  ${DATA_DIR_VARIABLE} (not set)"]
        problems = [f"no file {file.name}.gz or {file.name}; looked in", *unset]
        problems += [f"  {folder}" for folder in folders]
    raise DatasetError("\n".join([*problems, advice]))


def _existing(name: str, folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in (folder / f"{name}.gz", folder / name):
            if os.path.exists(path):  # noqa: PTH110 (Path.exists raises where a folder may not be read)
                yield path
