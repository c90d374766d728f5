"""Files from elsewhere: downloaded, verified, read member by member; never half there."""

import contextlib
import errno
import hashlib
import http.client
import lzma
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte


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


def open_archive_members(path: str | Path, suffix: str = "") -> Iterator[tuple[str, bytes]]:
    """Reads the files in a tar archive one after another, without unpacking it to disk.

    Args:
        path: A ``.tar`` archive, plain or compressed (gzip, bzip2, xz).
        suffix: Only members whose names end so.

    Yields:
        Name and content of each regular file, in the archive's order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the archive is damaged or cut off, or no tar archive at all.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such archive", str(path))
    member = None
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(suffix):
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name, content.read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        # bz2 reports damage as an OSError without a number; a disk that fails gives one.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        where = f"after member {member.name}" if member else "at its start"
        raise ValueError(
            f"{path} is cut off or damaged {where} ({error}): get the archive anew"
        ) from error


__all__ = ["checksum", "download", "open_archive_members", "verify"]
