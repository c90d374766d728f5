"""Files of dynamics under way: frames and logs of each replica, and the state that counts them."""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

COLUMNS = (
    "time_ps",
    "potential_energy_eV",
    "kinetic_energy_eV",
    "total_energy_eV",
    "temperature_K",
    "conserved_energy_eV",
)


class Frame(NamedTuple):
    """Where one replica is: ps, Å, ASE's unit of momentum, eV/Å, eV, K."""

    time: float
    positions: np.ndarray
    momenta: np.ndarray
    forces: np.ndarray
    potential: float
    kinetic: float
    temperature: float
    conserved: float


class FrameWriter:
    """Frames of one structure as extended XYZ, and lines of its log.

    ASE's own writer takes longer than twenty steps of a small molecule.

    Args:
        atoms: Elements, masses, cell and periodic directions.
    """

    def __init__(self, atoms: "Atoms") -> None:
        numbers = " %.8f" * 9
        self._masses: np.ndarray | None = None
        columns = "species:S:1:pos:R:3:momenta:R:3:forces:R:3"
        if "masses" in atoms.arrays:
            self._masses = atoms.get_masses()[:, None]
            numbers, columns = numbers + " %.8f", columns + ":masses:R:1"
        lattice = ""
        if atoms.cell.any():
            vectors = " ".join(repr(float(x)) for x in atoms.cell.array.ravel())
            lattice = f'Lattice="{vectors}" '
        pbc = " ".join("T" if periodic else "F" for periodic in atoms.pbc)
        self._head = f"{len(atoms)}\n{lattice}Properties={columns} "
        self._tail = f'pbc="{pbc}"\n'
        self._rows = "".join(f"{symbol}{numbers}\n" for symbol in atoms.symbols)

    def frame(self, frame: Frame) -> str:
        """As extended XYZ."""
        parts = [frame.positions, frame.momenta, frame.forces]
        if self._masses is not None:
            parts.append(self._masses)
        values = np.concatenate(parts, axis=1, dtype=np.float64)
        head = f"{self._head}energy={frame.potential!r} time_ps={frame.time!r} {self._tail}"
        return head + self._rows % tuple(values.ravel().tolist())

    @staticmethod
    def line(frame: Frame) -> str:
        """Of the log."""
        energies = (frame.potential, frame.kinetic, frame.potential + frame.kinetic)
        row = [f"{frame.time:.6f}", *(f"{energy:.9f}" for energy in energies)]
        row += [f"{frame.temperature:.4f}", f"{frame.conserved:.9f}"]
        return ",".join(row) + "\n"


def log_head() -> str:
    """The first line of a log."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(COLUMNS)
    return text.getvalue()


class Snapshot(NamedTuple):
    """What is saved together.

    Attributes:
        state: Of the dynamics.
        sizes: (R, 2), of the files of frames and of the logs without ``texts``.
        texts: Frames and lines that follow, for each replica.
    """

    state: dict[str, Any]
    sizes: np.ndarray
    texts: tuple[tuple[tuple[str, str], ...], ...]


class Files:
    """Paths of a run of one or more replicas.

    One replica has ``output`` and the same with ``.csv``; of several, each has its number before
    the suffix. Until a run is complete its frames are in files with ``.part`` behind. What stands
    in the files behind the sizes in the state is made again.

    Args:
        output: Of the run.
        replicas: Their number.

    Attributes:
        outputs: Complete trajectories.
        parts: Trajectories under way.
        logs: Tables of energies.
        state: The file that a run goes on from.
    """

    def __init__(self, output: Path, replicas: int) -> None:
        self.outputs = [output]
        if replicas > 1:
            digits = len(str(replicas - 1))
            self.outputs = [
                output.with_name(f"{output.stem}-{r:0{digits}d}{output.suffix}")
                for r in range(replicas)
            ]
        self.parts = [path.with_name(f"{path.name}.part") for path in self.outputs]
        self.logs = [path.with_suffix(".csv") for path in self.outputs]
        self.state = output.with_name(f"{output.name}.state.npz")
        self._name = output

    def check_free(self) -> None:
        """Refuse to begin where other files are.

        Raises:
            ValueError: If one is there, and no state to go on from.
        """
        if self.state.exists():
            return
        for path in [*self.outputs, *self.logs]:
            # An empty one is left by a run that ended before its first frame.
            if path.exists() and path.stat().st_size:
                raise ValueError(
                    f"{path} exists and {self.state.name} does not, so it cannot be extended; "
                    "choose another output, or delete it."
                )

    def open(self, sizes: np.ndarray) -> None:
        """Bring the frames to where they are written.

        Raises:
            ValueError: If a file is shorter than its size.
        """
        self.state.parent.mkdir(parents=True, exist_ok=True)
        for output, part in zip(self.outputs, self.parts, strict=True):
            if output.exists():
                os.replace(output, part)
        for pair, known in zip(zip(self.parts, self.logs, strict=True), sizes, strict=True):
            for path, size in zip(pair, known, strict=True):
                path.touch()
                if path.stat().st_size < size:
                    raise ValueError(
                        f"{path} lacks frames that {self.state.name} counts; delete it, "
                        "the log and the state, and begin anew."
                    )

    def close(self) -> None:
        """The run is complete."""
        for output, part in zip(self.outputs, self.parts, strict=True):
            os.replace(part, output)

    def save(self, held: Snapshot) -> Snapshot:
        """Write frames and lines, then the state that counts them."""
        sizes = held.sizes.copy()
        for r, texts in enumerate(held.texts):
            for column, path in enumerate((self.parts[r], self.logs[r])):
                text = "".join(pair[column] for pair in texts)
                sizes[r, column] = _append(path, int(held.sizes[r, column]), text)
        aside = self.state.with_name(f"{self.state.name}.part")
        with open(aside, "wb") as file:
            np.savez(file, sizes=sizes, **held.state)
        os.replace(aside, self.state)
        return Snapshot(held.state, sizes, ((),) * len(sizes))

    def read_state(self, settings: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """The state, None where there is none.

        Raises:
            ValueError: If it is damaged, or its run was begun with other settings.
        """
        if not self.state.exists():
            return None
        try:
            # Opened here: np.load leaves a damaged file open.
            with open(self.state, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                state = dict(arrays)
            theirs = dict(json.loads(str(state["settings"])))
        except Exception as error:  # zip, zlib, EOF, value errors: whatever the bytes lead to
            raise ValueError(
                f"{self.state} is damaged ({error}); delete it and {self._name.name}, and begin "
                "anew."
            ) from error
        for name, value in settings.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{self._name} was begun with {name}={theirs.get(name)}, and {value} is asked "
                    f"for; choose another output, or delete it and {self.state.name}."
                )
        return state

    def read_log(self, replica: int) -> dict[str, np.ndarray]:
        """Columns of a log, (S,) each."""
        try:
            table = np.loadtxt(self.logs[replica], delimiter=",", skiprows=1, ndmin=2)
            return dict(zip(COLUMNS, table.T, strict=True))
        except ValueError as error:
            raise ValueError(
                f"{self.logs[replica]} is damaged ({error}); delete it, the trajectory and the "
                "state, and begin anew."
            ) from error


def read_frames(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Positions (S, N, 3), Å, and momenta (S, N, 3), ASE's unit, that :class:`FrameWriter` wrote.

    Args:
        path: The trajectory.

    Raises:
        ValueError: If it was not written by it.
    """
    lines = Path(path).read_text().splitlines()
    atoms = int(lines[0]) if lines else 0
    frames, rest = divmod(len(lines), atoms + 2)
    if not frames or rest or "pos:R:3:momenta:R:3" not in lines[1]:
        raise ValueError(f"{path} is no trajectory of pyg-schnet md.")
    values = np.empty((frames, atoms, 6))
    for s in range(frames):
        first = s * (atoms + 2) + 2
        rows = [line.split(maxsplit=7)[1:7] for line in lines[first : first + atoms]]
        values[s] = np.array(rows, dtype=np.float64)
    return values[..., :3], values[..., 3:]


def _append(path: Path, size: int, text: str) -> int:
    """Put ``text`` behind the first ``size`` bytes of a file; its new size."""
    with open(path, "r+b") as file:
        file.seek(size)
        file.truncate()
        file.write(text.encode())
        end = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return end
