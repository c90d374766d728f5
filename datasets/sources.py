"""Files from elsewhere: downloaded, verified, read member by member; never half there."""

import bz2
import contextlib
import errno
import gzip
import hashlib
import http.client
import io
import lzma
import os
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte
# Of what a file may unpack to: repetitive JSON shrinks to a fiftieth, a bomb to a thousandth.
_EXPANSION = 200
_ALWAYS_ALLOWED = 1 << 30  # bytes
_STALE = 3600.0  # seconds after which a file put aside is nobody's any more
_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def checksum(path: str | Path, algorithm: str = "sha256") -> str:
    """The checksum of a file, written ``"algorithm:hexadecimal digits"``.

    Args:
        path: The file.
        algorithm: ``"sha256"``, ``"md5"`` or any other name that hashlib knows.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     empty = pathlib.Path(folder, "empty")
    ...     empty.touch()
    ...     checksum(empty, "md5")
    'md5:d41d8cd98f00b204e9800998ecf8427e'
    """
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def verify(path: str | Path, expected: str) -> None:
    """Compares a file with a checksum of the form ``"sha256:..."`` or ``"md5:..."``.

    Raises:
        ValueError: if they differ, or if the checksum names no known algorithm.
    """
    algorithm, colon, _ = expected.partition(":")
    if not colon or algorithm not in hashlib.algorithms_available:
        raise ValueError(f"checksum {expected!r} must be 'sha256:...' or 'md5:...'")
    found = checksum(path, algorithm)
    if found.lower() != expected.lower():
        raise ValueError(f"{path} has checksum {found} and {expected} is expected: get it anew")


def download(url: str, path: str | Path, check: str | Callable[[Path], object]) -> Path:
    """Downloads a file, resuming where an earlier call was cut off, and verifies it.

    The bytes are collected in ``path`` + ``".part"``; ``path`` itself appears when they are
    complete and right. A file that is already there with the right checksum is left alone.

    Args:
        url: Where from.
        path: Where to; its folder is made if need be.
        check: ``"sha256:..."`` or ``"md5:..."`` of the whole file; where none is published, a
            function that raises ValueError if the file is not whole.

    Returns:
        ``path``.

    Raises:
        ConnectionError: if the server cannot be reached or the transfer breaks off; what arrived
            is kept, and the next call goes on from there.
        ValueError: if the file that arrived is not the right one; it is deleted.
        OSError: if the disk is full.
    """
    path = Path(path)
    given = partial(verify, expected=check) if isinstance(check, str) else check
    if path.exists():
        with contextlib.suppress(ValueError):
            given(path)
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _transfer(url, part)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as e:
        reason = getattr(e, "reason", None) or e
        raise ConnectionError(f"{url} could not be downloaded ({reason}): try again online") from e
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC, "no room for the download: make some and call again to go on", str(part)
        ) from error
    try:
        given(part)
    except ValueError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def _transfer(url: str, part: Path) -> None:
    """Appends to ``part`` what it lacks of the file at ``url``, or all if it cannot be resumed."""
    have = part.stat().st_size if part.exists() else 0
    # Some servers turn away urllib's own name.
    headers = {"User-Agent": "pyg_schnet"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            # Nothing lies beyond what is here: complete, or of another file. Told by the checksum.
            return
        raise
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise ConnectionError(
                f"the server answered a request for bytes from {have} on with "
                f"{response.headers.get('Content-Range')}"
            )
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None
            ) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            arrived = file.tell()
    if total is not None and arrived < total:
        raise ConnectionError(f"the transfer broke off after {arrived} of {total} bytes")


def in_brief(error: BaseException) -> str:
    """What another library said of a file, in one line of at most 200 printable characters.

    >>> in_brief(KeyError("a" * 500))[-6:], in_brief(EOFError())
    ('aaa...', 'EOFError')
    """
    words = " ".join(str(error).split()) or type(error).__name__
    words = "".join(c if c.isprintable() else "?" for c in words)
    return words if len(words) <= 200 else f"{words[:197]}..."


def is_of_disk(error: BaseException) -> bool:
    """Whether the system failed, and not the content of a file.

    Decoders tell of damage by an OSError without a number, and a place before the beginning that
    a damaged directory names is refused with EINVAL.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def refuse_bomb(name: str | Path, size: int, packed: int) -> None:
    """Refuses a file whose content is over 200 times larger than itself, and over 1 GiB.

    Args:
        name: What to call the file.
        size: Bytes of its content, as declared or as counted so far.
        packed: Bytes of the file itself.

    Raises:
        ValueError: if so.
    """
    if size > max(_ALWAYS_ALLOWED, _EXPANSION * packed):
        raise ValueError(
            f"{name} has {packed:,} bytes and unpacks to {size / 1e9:.3g} GB or more: it is no "
            f"data set; get it anew, or unpack it yourself if you trust it"
        )


class _Counted(io.RawIOBase):
    """What a packed file unpacks to, refused where it becomes too much."""

    def __init__(self, stream: BinaryIO, path: str | Path) -> None:
        self._stream, self._path, self._count = stream, path, 0
        self._packed = Path(path).stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(len(buffer))
        self._count += len(content)
        refuse_bomb(self._path, self._count, self._packed)
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def limited(stream: BinaryIO, path: str | Path) -> io.BufferedReader:
    """A stream of unpacked bytes that ends with an error before it fills memory or disk.

    Args:
        stream: What is read; closed with the result.
        path: The packed file it comes from.

    Raises:
        ValueError: while reading, as :func:`refuse_bomb`.
    """
    return io.BufferedReader(_Counted(stream, path), 1 << 20)


def open_unpacked(path: str | Path) -> io.BufferedReader:
    """Opens a file for reading, unpacked if it is gzip, bzip2 or xz, whatever its name.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: while reading, as :func:`refuse_bomb`.
    """
    with open(path, "rb") as file:
        start = file.read(6)
    opener = next((o for magic, o in _PACKED.items() if start.startswith(magic)), open)
    return limited(opener(path, "rb"), path)  # type: ignore[operator]


def check_zip(archive: zipfile.ZipFile, name: str | Path) -> None:
    """Refuses a zip archive (npz is one) that declares too large a content.

    A member is never read beyond its declared size.

    Raises:
        ValueError: as :func:`refuse_bomb`.
    """
    assert archive.fp is not None
    packed = archive.fp.seek(0, os.SEEK_END)
    refuse_bomb(name, sum(entry.file_size for entry in archive.infolist()), packed)


def forget_stale(path: Path) -> None:
    """Deletes what killed processes have put aside for a file and never moved to its place.

    Args:
        path: The file; those beside it whose names begin alike and end in ".part" are deleted if
            nobody has written to them for an hour.
    """
    for aside in path.parent.iterdir():
        if aside.name.startswith(path.name) and aside.name.endswith(".part"):
            with contextlib.suppress(OSError):
                if time.time() - aside.stat().st_mtime > _STALE:
                    aside.unlink()


def open_archive_members(path: str | Path, suffix: str = "") -> Iterator[tuple[str, bytes]]:
    """Reads the files in a tar archive one after another, without unpacking it to disk.

    Args:
        path: A ``.tar`` archive, plain or compressed (gzip, bzip2, xz).
        suffix: Only members whose names end so.

    Yields:
        Name and content of each regular file, in the archive's order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the archive is damaged or cut off, no tar archive at all, or unpacks to far
            more than its size.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such archive", str(path))
    member = None
    try:
        with open_unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(suffix):
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name, content.read()
    except Exception as error:  # tarfile and the decoders raise whatever the bytes lead to
        if is_of_disk(error) or str(path) in str(error):
            raise
        where = f"after member {member.name[:100]!r}" if member else "at its start"
        raise ValueError(
            f"{path} is cut off or damaged {where} ({in_brief(error)}): get the archive anew"
        ) from error


__all__ = [
    "check_zip",
    "checksum",
    "download",
    "forget_stale",
    "in_brief",
    "is_of_disk",
    "limited",
    "open_archive_members",
    "open_unpacked",
    "refuse_bomb",
    "verify",
]
