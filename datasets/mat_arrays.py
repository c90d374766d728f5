"""Arrays of numbers in MATLAB's files, read without scipy, which crashes on damaged ones."""

import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from pyg_schnet.datasets.sources import in_brief, refuse_bomb

_HEAD = 128
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_CLASSES = dict(enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), 6))
_COMPLEX = 0x0800


def read_arrays(path: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Real arrays of numbers of a file of level 5, such as MATLAB and scipy write.

    MathWorks, MAT-File Format (2019), chapter 1.

    Args:
        path: The file.
        names: Of the arrays to read; all else is passed over.

    Returns:
        Those that are there.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or of another level, or an array is not of real numbers.

    >>> import tempfile
    >>> from scipy.io import savemat
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     savemat(f"{folder}/a.mat", {"X": np.arange(6.0).reshape(2, 3), "text": "passed over"})
    ...     read_arrays(f"{folder}/a.mat", ["X"])["X"].tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    content = memoryview(Path(path).read_bytes())
    try:
        if content[124:_HEAD] != b"\x00\x01IM":
            raise ValueError("it has not the head of level 5, little-endian")
        place, found = _HEAD, {}
        while place < len(content):
            kind, body, place = _element(content, place, padded=False)
            if kind == _COMPRESSED:
                kind, body, _ = _element(memoryview(_unpacked(path, body)), 0, padded=False)
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind} stands where an array should be")
            name, array = _array(body, names)
            if array is not None:
                found[name] = array
    except (ValueError, LookupError, zlib.error, OverflowError, MemoryError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is no whole mat file ({in_brief(error)}): get it anew") from error
    return found


def _unpacked(path: str | Path, body: memoryview) -> bytes:
    stream = zlib.decompressobj()
    parts, size = [], 0
    rest: bytes | memoryview = body
    while rest:
        parts.append(stream.decompress(rest, 1 << 24))
        size += len(parts[-1])
        refuse_bomb(path, size, len(body))
        rest = stream.unconsumed_tail
    if not stream.eof:
        raise ValueError("a compressed array is cut off")
    return b"".join(parts)


def _element(content: memoryview, place: int, padded: bool = True) -> tuple[int, memoryview, int]:
    """Type and content of the element at a place, and the place behind it."""
    if place + 8 > len(content):
        raise ValueError("an element is cut off")
    kind, size = np.frombuffer(content, "<u4", 2, place).tolist()
    start, end = place + 8, place + 8 + size
    if kind >> 16:  # a small one: its size and up to four bytes stand in the tag
        size, kind = kind >> 16, kind & 0xFFFF
        start, end = place + 4, place + 4 + size
        if size > 4:
            raise ValueError("an element is damaged")
    if end > len(content):
        raise ValueError("an element is cut off")
    behind = place + 8 if start == place + 4 else end + (-size % 8 if padded else 0)
    return kind, content[start:end], behind


def _array(body: memoryview, names: Collection[str]) -> tuple[str, np.ndarray | None]:
    _, flags, place = _element(body, 0)
    _, shape, place = _element(body, place)
    _, label, place = _element(body, place)
    name = bytes(label).decode(errors="replace")
    if name not in names:
        return name, None
    (flag,) = np.frombuffer(flags, "<u4", 1).tolist()
    if flag & 0xFF not in _CLASSES or flag & _COMPLEX:
        raise ValueError(f"{name} is no array of real numbers")
    sizes = np.frombuffer(shape, "<i4").tolist()
    kind, values, _ = _element(body, place)
    if kind not in _TYPES or min(sizes, default=-1) < 0:
        raise ValueError(f"{name} is damaged")
    numbers = np.frombuffer(values, f"<{_TYPES[kind]}").astype(_CLASSES[flag & 0xFF])
    return name, numbers.reshape(sizes, order="F")
