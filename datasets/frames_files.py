"""Columns of frames as .npy files that grow, and the header that says how much of them counts."""

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from pyg_schnet.datasets.frames import BY_ATOM, Frames

FORMAT_VERSION = 1
HEADER = "header.json"

NPY_HEADER = 128
"""Bytes before the numbers of each array; a multiple of 64, as NumPy wants."""

_PIECE = 1 << 24  # bytes that are looked at together
# As in memory, but for the elements: one byte for each atom instead of eight.
_DTYPES = {
    "z": "|u1",
    "pos": "<f4",
    "forces": "<f4",
    "energy": "<f8",
    "stress": "<f8",
    "cell": "<f4",
    "pbc": "|b1",
    "idx": "<i8",
}


class FramesWriter:
    """Writes frames to a folder that :class:`~.on_disk.OnDiskFrames` opens, or adds some to it.

    A new folder is made aside and moved to its place when it is complete. Frames that are added to
    an old one stand behind the old until the header, which is replaced as a whole, counts them: a
    writer that is killed leaves what was there before.

    Args:
        root: The folder.
        append: Add to what is there; else there must be nothing.
        metadata: Words to keep in the header of a new folder.

    Raises:
        FileExistsError: If there is something already, and ``append`` is not given.
        ValueError: If what is there is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        append: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        if self.root.exists() and not append:
            raise FileExistsError(
                f"{self.root} is there already: pass append=True to add frames, choose another "
                f"folder, or delete it"
            )
        self._folder, self._is_new = self.root, not self.root.exists()
        self._files: dict[str, IO[bytes]] = {}
        if self._is_new:
            # One name per process: two that write the same data set at once do not mix.
            self._folder = self.root.with_name(f"{self.root.name}.{os.getpid()}.part")
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self.frames = self.atoms = 0
            self._columns: dict[str, dict[str, Any]] = {}
            self._metadata = dict(metadata or {})
            return
        header = read_header(self.root)
        self.frames, self.atoms = header["frames"], header["atoms"]
        self._columns, self._metadata = header["columns"], header["metadata"]
        for name, column in self._columns.items():
            self._files[name] = file = (self.root / f"{name}.npy").open("r+b")
            end = NPY_HEADER + size_of(column)
            file.truncate(end)  # of a writer that was killed
            file.seek(end)

    def add(self, frames: Frames) -> None:
        """Write frames behind those before.

        Args:
            frames: With the same columns as all before.

        Raises:
            ValueError: If columns differ, or an array does not fit its frames.
        """
        sizes = np.asarray(frames.num_atoms, dtype=np.int64)
        if not len(sizes):
            return
        values = {key: self._cast(key, of, sizes) for key, of in frames.columns.items()}
        ends = self.atoms + sizes.cumsum()
        values["ptr"] = ends if self.frames else np.concatenate([[0], ends])
        if not self._columns:
            for name, array in values.items():
                self._columns[name] = {
                    "dtype": np.dtype(array.dtype).str,
                    "shape": list(array.shape[1:]),
                    "rows": 0,
                    "crc32": 0,
                }
                self._files[name] = file = (self._folder / f"{name}.npy").open("w+b")
                file.write(bytes(NPY_HEADER))
        if values.keys() != self._columns.keys():
            have, had = (
                ", ".join(sorted(of - {"ptr"})) for of in (values.keys(), self._columns.keys())
            )
            raise ValueError(f"frames have {have} and earlier ones {had}")
        for name, array in values.items():
            column = self._columns[name]
            if list(array.shape[1:]) != column["shape"]:
                raise ValueError(
                    f"{name} has shape {array.shape[1:]} for each row and earlier frames "
                    f"{tuple(column['shape'])}"
                )
        for name, array in values.items():
            content, column = np.ascontiguousarray(array).data.cast("B"), self._columns[name]
            self._files[name].write(content)
            column["crc32"] = zlib.crc32(content, column["crc32"])
            column["rows"] += len(array)
        self.frames += len(sizes)
        self.atoms = int(ends[-1])

    def _cast(self, name: str, values: Any, sizes: np.ndarray) -> np.ndarray:
        array = np.asarray(values)
        wanted = int(sizes.sum()) if name in BY_ATOM else len(sizes)
        if len(array) != wanted:
            raise ValueError(
                f"{name} has {len(array)} rows for {len(sizes)} frames: {wanted} wanted"
            )
        if name == "z" and len(array) and (array.min() < 0 or array.max() > 255):
            raise ValueError(f"z must be atomic numbers, got {array.min()} to {array.max()}")
        if name != "stress" and array.dtype.kind == "f" and not np.isfinite(array).all():
            # Where nothing is known of the stress of a frame it is NaN.
            bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0])
            frame = int(np.searchsorted(sizes.cumsum(), bad, "right")) if name in BY_ATOM else bad
            raise ValueError(
                f"{name} of frame {self.frames + frame} is not finite: leave the frame out"
            )
        return array.astype(_DTYPES.get(name, array.dtype), copy=False)

    def save(self) -> None:
        """Make what was added so far part of a folder that is appended to."""
        for name, file in self._files.items():
            column = self._columns[name]
            end = file.tell()
            file.seek(0)
            file.write(_npy_header(column))
            file.seek(end)
            file.flush()
            os.fsync(file.fileno())
        known = {
            "format_version": FORMAT_VERSION,
            "frames": self.frames,
            "atoms": self.atoms,
            "columns": self._columns,
            "metadata": self._metadata,
        }
        aside = self._folder / f"{HEADER}.part"
        with aside.open("w", encoding="utf-8") as text:
            json.dump(known, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        os.replace(aside, self._folder / HEADER)

    def drop(self, *names: str) -> None:
        """Leave out columns of a new folder, of which it has turned out that they say nothing."""
        for name in names:
            if self._is_new and self._columns.pop(name, None) is not None:
                self._files.pop(name).close()
                (self._folder / f"{name}.npy").unlink()

    def mark(self, splits: Mapping[str, tuple[int, int]]) -> None:
        """Name parts of the frames, each by its first and the one behind its last."""
        self._metadata["splits"] = json.dumps(splits)

    def close(self) -> None:
        """Complete the folder.

        Raises:
            ValueError: If there are no frames.
        """
        if not self.frames:
            self.discard()
            raise ValueError("there are no frames")
        self.save()
        for file in self._files.values():
            file.close()
        self._files = {}
        if self._is_new:
            try:
                os.replace(self._folder, self.root)
            except OSError:
                self.discard()
                raise FileExistsError(
                    f"{self.root} was made by another process meanwhile: open it, or delete it"
                ) from None

    def discard(self) -> None:
        """Leave what was there before."""
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        self._files = {}
        if self._is_new:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within it, no other process of this machine or file system is; others wait.

    Args:
        path: Beside which a file ending in ``.lock`` is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as held:
        with suppress(ImportError):  # Windows, where two that write at once waste the work of one
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def write_frames(
    root: str | Path, chunks: Iterable[Frames], metadata: Mapping[str, str] | None = None
) -> None:
    """Write all chunks to a new folder.

    Raises:
        FileExistsError: If the folder is there already.
        ValueError: If there is no frame, or chunks have different columns.
    """
    with FramesWriter(root, metadata=metadata) as writer:
        for chunk in chunks:
            writer.add(chunk)


def read_header(folder: Path) -> dict[str, Any]:
    """What the header says, compared with the sizes of the files.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of another version, or a file is too short.
    """
    path = folder / HEADER
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no frames: {HEADER} is missing")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        version = header["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"its format version is {version} and {FORMAT_VERSION} is read here")
        frames, atoms, columns = header["frames"], header["atoms"], header["columns"]
        header["metadata"] = dict(header["metadata"])
        for name, column in columns.items():
            rows = frames + 1 if name == "ptr" else atoms if name in BY_ATOM else frames
            if column["rows"] != rows or not name.isidentifier():
                raise ValueError(f"it has {column['rows']} rows of {name} for {frames} frames")
            if np.dtype(column["dtype"]).hasobject:
                raise ValueError(f"{name} is to hold objects, and only numbers are read")
            missing = NPY_HEADER + size_of(column) - (folder / f"{name}.npy").stat().st_size
            if missing > 0:
                raise ValueError(f"{name}.npy is {missing} bytes too short")
        if not {"z", "pos", "ptr"} <= columns.keys():
            raise ValueError("it lacks z, pos or ptr")
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} does not describe whole frames ({error}): make the folder anew"
        ) from error
    return dict(header)


def verify(folder: str | Path) -> None:
    """Read everything and compare with the checksums of the header.

    Raises:
        FileNotFoundError: If there is no header.
        ValueError: naming a column that has changed.
    """
    for name, column in read_header(Path(folder))["columns"].items():
        with (Path(folder) / f"{name}.npy").open("rb") as file:
            file.seek(NPY_HEADER)
            left, found = size_of(column), 0
            while left and (piece := file.read(min(left, _PIECE))):
                found = zlib.crc32(piece, found)
                left -= len(piece)
        if found != column["crc32"]:
            raise ValueError(f"{folder}: {name}.npy has changed since it was written: get it anew")


def size_of(column: Mapping[str, Any]) -> int:
    """Bytes of the numbers of a column."""
    count = int(column["rows"]) * int(np.prod(column["shape"], dtype=np.int64))
    return count * np.dtype(column["dtype"]).itemsize


def _npy_header(column: Mapping[str, Any]) -> bytes:
    """The beginning of a .npy file, always of the same length, so that its rows may grow."""
    shape = tuple([column["rows"], *column["shape"]])
    told = f"{{'descr': {column['dtype']!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    head = b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little") + told.encode()
    return head.ljust(NPY_HEADER - 1) + b"\n"
