import gzip
import tracemalloc

import numpy as np
import pytest

from manifold_core.data.idx import read_idx
from manifold_core.errors import InputError

# Two images of 2×3 pixels, as the format is published.
CONTENT = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(
    [0, 1, 2, 3, 4, 5, 250, 251, 252, 253, 254, 255]
)
EXPECTED = [[[0, 1, 2], [3, 4, 5]], [[250, 251, 252], [253, 254, 255]]]


def packed(content: bytes) -> bytes:
    """Without the time in its header: processes that share the tests must see the same ones."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_raw_and_packed_whatever_the_name(tmp_path, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(CONTENT))
    array = read_idx(path)
    assert array.dtype == np.uint8
    assert array.tolist() == EXPECTED
    array[0, 0, 0] = 9  # writable: torch takes it without a warning
    assert read_idx(str(path)).tolist() == EXPECTED


def test_reads_labels_and_sizes_beyond_a_byte(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(bytes([0, 0, 8, 1, 0, 1, 2, 3]) + bytes(range(256)) * 258 + bytes([7, 8, 9]))
    array = read_idx(path)
    assert array.shape == (0x010203,)
    assert array[-4:].tolist() == [255, 7, 8, 9]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (packed(b""), "empty"),
        (b"\0\0\x08", "begins with 0x000008"),
        (b"\x01" + CONTENT[1:], "begins with 0x01000803"),
        (b"PK\x03\x04" + CONTENT, "begins with 0x504b0304"),
        (CONTENT[:2] + b"\x0d" + CONTENT[3:], "element type 0x0d; expected 0x08"),
        (CONTENT[:3] + b"\0\x05", "0 dimensions; expected 1 to"),
        (CONTENT[:3] + b"\xff" + bytes([0, 0, 0, 1]) * 255 + b"\x05", "255 dimensions; expected 1 to"),
        (CONTENT[:4], "ends within its header, after 4 bytes; expected 16"),
        (CONTENT[:15], "ends within its header, after 15 bytes; expected 16"),
        (CONTENT[:4] + bytes(4) + CONTENT[8:], r"shape \(0, 2, 3\)"),
        (CONTENT[:16], r"0 elements; expected 12 for shape \(2, 2, 3\)"),
        (CONTENT[:-1], "11 elements; expected 12"),
        (CONTENT + b"\0", "continues after its 12 elements"),
        (packed(CONTENT[:-1]), "11 elements; expected 12"),
        (packed(CONTENT + b"\0"), "continues after its 12 elements"),
        (packed(CONTENT)[:-9], "damaged gzip"),
        (packed(CONTENT)[:-4] + b"abcd", "damaged gzip"),
        (packed(CONTENT)[:-8] + b"abcd" + packed(CONTENT)[-4:], "damaged gzip"),
        (packed(CONTENT)[:10] + b"\xff" * 20, "damaged gzip"),
        (packed(CONTENT) + b"more", "damaged gzip"),
        (b"\x1f\x8b", "damaged gzip"),
    ],
)
def test_refuses(tmp_path, content, expected):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_refuses_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="absent: no such file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_memory_follows_the_bytes_that_are_there(tmp_path, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(bytes([0, 0, 8, 1, 64, 0, 0, 0]) + bytes(100)))  # claims 1 GiB
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="100 elements; expected 1073741824"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
