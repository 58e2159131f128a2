"""Read files that a user names: of bounded size, with one readable error."""

from __future__ import annotations

import os
from pathlib import Path


def read_bounded(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return what is in a file.

    Args:
        path: the file.
        limit: how large it may be [byte].

    Raises:
        ValueError: it cannot be read, or is larger; the message begins with the path.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > limit:
        raise ValueError(f"{path}: expected at most {limit} bytes; there are more")
    return data


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """Return the text in a file, in UTF-8 with or without a mark at its beginning.

    Args:
        path: the file.
        limit: how large it may be [byte].

    Raises:
        ValueError: as in `read_bounded`, or it is not UTF-8.
    """
    try:
        return read_bounded(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text in UTF-8") from None
