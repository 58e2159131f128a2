"""Data files: found in order, checked, and refused when they are damaged or lie."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import pytest

from psgdsim.data.files import DataFile, load_file, read_bounded, search_folders
from psgdsim.data.idx import parse_idx
from psgdsim.errors import DatasetError


def idx(shape, values, element_type=8):
    header = bytes([0, 0, element_type, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(values)


def test_idx_is_read_in_c_order():
    assert parse_idx(idx((2, 3), range(6)), "x").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert parse_idx(idx((0, 3), []), "x").shape == (0, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x08", "not an idx file"),
        (b"\x89PNG....", "not an idx file: expected it to start 00 00; got 89 50 4e 47"),
        (idx((2,), [1, 2], element_type=0x0D), "unsigned byte.*0x0d"),
        (idx((), []), "0 dimensions"),
        (b"\0\0\x08\xff" + bytes(9), "255 dimensions; the file has 13 bytes"),
        (idx((2, 3), range(5)), "2 x 3 = 6 values; the file has 5"),
        (idx((2, 3), range(7)), "2 x 3 = 6 values; the file has 7"),
        (idx((2**32 - 1,) * 3, range(9)), "the file has 9"),
    ],
)
def test_idx_that_lies_is_refused_with_its_name(content, words):
    with pytest.raises(DatasetError, match=f"images: .*{words}"):
        parse_idx(content, "images")


def data_file(name, content):
    return DataFile(name, len(content), hashlib.sha256(content).hexdigest())


def test_files_are_found_in_order_gzipped_or_not(tmp_path):
    content = b"the content"
    folders = [tmp_path / "missing", tmp_path / "raw", tmp_path / "zipped"]
    folders[1].mkdir()
    folders[2].mkdir()
    (folders[2] / "f.gz").write_bytes(gzip.compress(content))
    assert load_file(data_file("f", content), folders, "advice") == content
    (folders[1] / "f").write_bytes(b"another set's file")
    assert load_file(data_file("f", content), folders, "advice") == content
    (folders[1] / "f").write_bytes(content)
    (folders[2] / "f.gz").unlink()
    assert load_file(data_file("f", content), folders, "advice") == content


def test_folders_are_searched_from_the_most_particular_to_the_system_s(monkeypatch):
    monkeypatch.setenv("PSGDSIM_DATA_DIR", "/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", "/home/me")
    expected = [
        "/data/fashion_mnist",
        "/data/fashion-mnist",
        "/data",
        "/home/me/.cache/psgdsim/fashion_mnist",
        "/usr/x",
    ]
    assert search_folders("fashion_mnist", "/usr/x") == [Path(place) for place in expected]


@pytest.mark.parametrize(
    ("name", "stored", "words"),
    [
        ("f.gz", gzip.compress(b"0123456789", mtime=0)[:-9], "cannot be read"),
        ("f.gz", b"not gzip", "cannot be read"),
        ("f.gz", gzip.compress(b"0123456780", mtime=0), "expected sha256 84d89877.*got "),
        ("f.gz", gzip.compress(b"012345", mtime=0), "6 of 10 bytes"),
        ("f.gz", gzip.compress(bytes(50_000_000), mtime=0), "at most 10 bytes"),
        ("f", b"0123456789!", "at most 10 bytes"),
        ("f", b"", "0 of 10 bytes"),
    ],
    ids=["truncated", "not gzip", "other content", "too short", "bomb", "too long", "empty"],
)
def test_damaged_files_are_one_error_that_names_the_file(tmp_path, name, stored, words):
    (tmp_path / name).write_bytes(stored)
    with pytest.raises(DatasetError, match=words) as caught:
        load_file(data_file("f", b"0123456789"), [tmp_path], "get it there")
    assert str(caught.value).startswith(str(tmp_path / name))
    assert str(caught.value).endswith("get it there")


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(DatasetError, match="cannot be read"):
        read_bounded(tmp_path / "f", 10)


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """100 MB of zeros pack into 100 kB; reading stops just after the limit."""
    (tmp_path / "f.gz").write_bytes(gzip.compress(bytes(100_000_000)))
    tracemalloc.start()
    with pytest.raises(DatasetError, match="at most 1000 bytes"):
        read_bounded(tmp_path / "f.gz", 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
