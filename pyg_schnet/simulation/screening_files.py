"""What a screening has written so far, in a form that a kill at any moment leaves whole."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from pyg_schnet.simulation.screening_rows import table
from pyg_schnet.simulation.structure_streams import Place

VERSION = 1
"""Of the file of progress."""


class Progress(NamedTuple):
    """How far a screening is: what stands in its files up to here is final.

    Attributes:
        source: Number of the source that is read.
        place: Of its next structure.
        written: Bytes of the output.
        told: Bytes of the list of what was skipped.
        rows: Structures predicted.
        skipped: Structures left out.
    """

    source: int = 0
    place: Place = Place()
    written: int = 0
    told: int = 0
    rows: int = 0
    skipped: int = 0


class ScreeningFiles:
    """The output, the list of what was skipped, and the file that a screening goes on from.

    All are written beside their places (``OUTPUT.part``) and moved there at the end. Behind the
    sizes in ``OUTPUT.progress.json``, which is replaced as a whole after the others are on the
    disk, there may be bytes of a screening that was killed; they are cut off.

    Args:
        output: The table or the extended XYZ.
        facts: What the output depends on; a screening goes on only with the same.
        head: First line of the output.

    Attributes:
        progress: Of what was added.
        is_done: Whether all is written, and the files have to be moved only.
        skipped: The list of what was left out, beside the output.

    Raises:
        BlockingIOError: If another process is at it.
        ValueError: If ``OUTPUT.part`` is of another screening, or damaged.
    """

    def __init__(self, output: Path, facts: Mapping[str, Any], head: str) -> None:
        self.output, self.facts, self._head = output, json.loads(json.dumps(facts)), head
        self.part = output.with_name(f"{output.name}.part")
        self.state = output.with_name(f"{output.name}.progress.json")
        self.skipped = output.with_name(f"{output.stem}.skipped.csv")
        self._skipped_part = self.skipped.with_name(f"{self.skipped.name}.part")
        self.progress, self.is_done = self._saved()
        self._open()

    def _saved(self) -> tuple[Progress, bool]:
        if not self.state.exists():
            if self.part.exists() and self.part.stat().st_size:
                raise ValueError(
                    f"{self.part} is there without {self.state.name}, which says how far it is; "
                    "delete it, or choose another output."
                )
            return Progress(), False
        try:
            held = json.loads(self.state.read_text(encoding="utf-8"))
            facts, done = held["facts"], bool(held["done"])
            progress = Progress(**held["progress"] | {"place": Place(*held["progress"]["place"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.state} is damaged ({type(error).__name__}); delete it and {self.part.name} "
                "to begin anew."
            ) from error
        differ = [key for key in facts.keys() | self.facts if facts.get(key) != self.facts.get(key)]
        if differ:
            raise ValueError(
                f"{self.part} is of a screening with other {' and '.join(sorted(differ))}; give "
                f"the same again to go on, choose another output, or delete it and "
                f"{self.state.name} to begin anew."
            )
        return progress, done

    def _open(self) -> None:
        self._files: list[IO[bytes]] = []
        if self.is_done and not self.part.exists():
            return
        sizes = self.progress.written, self.progress.told
        for path, size in zip((self.part, self._skipped_part), sizes, strict=True):
            file = path.open("ab")
            self._files.append(file)
            if path == self.part:
                _lock(file, path)
            if os.fstat(file.fileno()).st_size < size:
                self.close()
                raise ValueError(
                    f"{path} is shorter than {self.state.name} says; delete both to begin anew."
                )
            file.truncate(size)
            file.seek(size)
        if not self.state.exists():
            self.save()  # a kill in the first seconds must not leave a part that nobody knows
        if not self.progress.written and self._head:
            self._files[0].write(self._head.encode())
            self.progress = self.progress._replace(written=len(self._head.encode()))

    def add(
        self, source: int, place: Place, text: str, rows: int, skipped: Sequence[Sequence[object]]
    ) -> None:
        """Write rows, and what was left out among them.

        Args:
            source: Number of the source that they are from.
            place: Of the structure after them.
            text: The rows.
            rows: Their number.
            skipped: File, index and reason of each structure that was left out.
        """
        before, written, told = self.progress, text.encode(), b""
        if skipped:
            head = [] if before.told else [("file", "index", "reason")]
            told = table([*head, *skipped]).encode()
        self._files[0].write(written)
        self._files[1].write(told)
        self.progress = Progress(
            source,
            place,
            before.written + len(written),
            before.told + len(told),
            before.rows + rows,
            before.skipped + len(skipped),
        )

    def save(self, done: bool = False) -> None:
        """Bring to the disk what was written, then that it was."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        aside = self.state.with_name(f"{self.state.name}.part")
        known = {"version": VERSION, "done": done, "progress": self.progress._asdict()}
        with aside.open("w", encoding="utf-8") as out:
            json.dump(known | {"facts": self.facts}, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(aside, self.state)
        self.is_done = done

    def keep(self) -> None:
        """Save, or where nothing was done leave nothing behind."""
        if self.progress.rows or self.progress.skipped:
            self.save()
            return
        self.close()
        for path in (self.part, self._skipped_part, self.state):
            path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Move the files to their places; may be called again after a kill in between."""
        self.close()
        if self.progress.told:
            if self._skipped_part.exists():
                os.replace(self._skipped_part, self.skipped)
        else:
            self._skipped_part.unlink(missing_ok=True)
            self.skipped.unlink(missing_ok=True)  # of an earlier screening
        if self.part.exists():
            os.replace(self.part, self.output)
        self.state.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the files go."""
        for file in self._files:
            # Bytes that a full disk did not take are not asked for again.
            with suppress(OSError):
                file.close()
        self._files = []


def _lock(file: Any, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows refuses to replace a file that is open, which protects as well
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(
            error.errno,
            "another process is writing it; wait for it, or choose another output",
            str(path),
        ) from error
