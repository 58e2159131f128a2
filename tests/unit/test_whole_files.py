"""A file is written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from psgdsim.whole_files import write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def write(file: io.BufferedIOBase) -> None:
        file.write(b"half")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_whole(tmp_path / "a.bin", write)
    assert names(tmp_path) == []


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file: io.BufferedIOBase) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, write)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_process_that_dies_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = """
import os, pathlib, sys
from psgdsim.whole_files import write_whole
write_whole(pathlib.Path(sys.argv[1]), lambda file: (file.write(b"half"), file.flush(), os._exit(9)))
"""
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == 9
    assert path.read_bytes() == b"old"


def test_the_file_and_then_its_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    synced = []

    def fsync(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((target.is_dir(), path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(path, lambda file: file.write(b"new"))
    assert synced == [(False, b"old"), (True, b"new")]
