"""What i-PI writes: cut to where a run goes on, read, averaged, and as extended XYZ."""

import contextlib
import csv
import itertools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from pyg_schnet.simulation.ipi_input import PROPERTIES, to_ipi
from pyg_schnet.units import BOHR, HARTREE

if TYPE_CHECKING:
    from ase import Atoms

COLUMNS = tuple(name.partition("{")[0] for name in PROPERTIES)
TABLE = ("time_ps", "temperature_K", "potential_energy_eV", "kinetic_energy_eV", "conserved_eV")

_END = "cell{atomic_unit}".encode("utf-32-le")  # of each frame of beads
_FIRST_ENERGY = COLUMNS.index("potential")
_FEWEST_BLOCKS = 8


class Estimate(NamedTuple):
    """A mean with its standard error.

    Attributes:
        mean: Of a series.
        error: Its standard error; NaN of fewer than 8 values.
    """

    mean: float
    error: float


def blocked(values: np.ndarray) -> Estimate:
    r"""Mean of a correlated series, with its standard error by blocking.

    Neighbours are averaged in pairs, again and again, and the standard error

    .. math::
        \sigma = \sqrt{\frac{\operatorname{var}(\text{block means})}{n_\text{blocks} - 1}}

    grows until blocks are longer than the correlation; the largest is taken, of at least 8 blocks.

    Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989).

    Args:
        values: (S,) one after the other in time.

    Example:
        >>> import numpy as np
        >>> estimate = blocked(np.random.default_rng(0).normal(5.0, 1.0, 4096))
        >>> abs(estimate.mean - 5.0) < 3 * estimate.error, 0.01 < estimate.error < 0.03
        (True, True)
    """
    if not len(values):
        return Estimate(math.nan, math.nan)
    mean, error, blocks = float(values.mean()), math.nan, values
    while len(blocks) >= _FEWEST_BLOCKS:
        error = float(np.nanmax([error, np.sqrt(blocks.var() / (len(blocks) - 1))]))
        even = len(blocks) - len(blocks) % 2
        blocks = blocks[:even].reshape(-1, 2).mean(1)
    return Estimate(mean, error)


class PimdFiles:
    """The files of i-PI in a folder.

    Args:
        folder: Where they are.
        num_atoms: N.

    Attributes:
        properties: The table.
        checkpoints: Those of i-PI, the newest last, and what it writes at the end.
    """

    def __init__(self, folder: Path, num_atoms: int) -> None:
        self.folder, self.num_atoms = folder, num_atoms
        self.properties = folder / "pimd.properties"

    def beads(self) -> list[Path]:
        """Files of positions, one for each bead."""
        return sorted(self.folder.glob("pimd.beads_*.bin"), key=_number)

    def checkpoints(self) -> list[Path]:
        """Numbered checkpoints, the oldest first."""
        return sorted(self.folder.glob("pimd.checkpoint_*"), key=_number)

    def frames(self) -> int:
        """Frames that are whole in all files."""
        beads = self.beads()
        if not beads or not self.properties.exists():
            return 0
        sizes = [path.stat().st_size // (self._frame_size(path) or 1) for path in beads]
        return min(len(self.table()), *sizes)

    def cut(self, frames: int) -> None:
        """Leave the first frames, which must be there."""
        for path in self.beads():
            os.truncate(path, frames * self._frame_size(path))
        lines = self.properties.read_text().splitlines(keepends=True)
        header = list(itertools.takewhile(lambda line: line.lstrip().startswith("#"), lines))
        aside = self.properties.with_name(f"{self.properties.name}.part")
        aside.write_text("".join(lines[: len(header) + frames]))
        os.replace(aside, self.properties)

    def remove(self) -> None:
        """Delete what i-PI writes, backups as well."""
        self.forget_checkpoints()
        for path in (self.properties, *self.beads()):
            path.unlink(missing_ok=True)

    def forget_checkpoints(self) -> None:
        """Delete checkpoints, backups, and the file by which i-PI is asked to end."""
        backups = self.folder.glob("#*#")
        for path in (self.folder / "RESTART", self.folder / "EXIT", *self.checkpoints(), *backups):
            path.unlink(missing_ok=True)

    def prune(self) -> None:
        """Leave the two newest checkpoints: the last may not be whole."""
        for path in self.checkpoints()[:-2]:
            path.unlink(missing_ok=True)

    def table(self) -> np.ndarray:
        """Rows of the properties that are whole: the columns, then energies of the beads, eV."""
        rows: list[list[float]] = []
        try:
            for line in self.properties.read_text().splitlines(keepends=True):
                if line.lstrip().startswith("#") or not line.endswith("\n"):
                    continue
                rows.append([float(word) for word in line.split()])
            width = len(rows[0]) if rows else len(COLUMNS)
            if width < len(COLUMNS) or any(len(row) != width for row in rows):
                raise ValueError("rows differ in length")
        except ValueError as error:
            raise ValueError(
                f"{self.properties} is damaged ({error}); choose another output."
            ) from error
        table = np.array(rows).reshape(-1, width)
        table[:, _FIRST_ENERGY:] *= HARTREE
        return table

    def positions(self) -> Iterator[np.ndarray]:
        """Positions (P, N, 3) of each frame, Å, in i-PI's frame."""
        beads = self.beads()
        sizes = [self._frame_size(path) for path in beads]
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(open(path, "rb")) for path in beads]
            for _ in range(self.frames()):
                parts = [
                    np.frombuffer(file.read(size), np.float64, 3 * self.num_atoms, offset=80)
                    for file, size in zip(opened, sizes, strict=True)
                ]
                yield BOHR * np.stack(parts).reshape(len(beads), self.num_atoms, 3)

    def write_table(self, path: Path) -> None:
        """The columns of :data:`TABLE` as CSV, a line for each frame."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(TABLE)
            for row in self.table():
                writer.writerow(f"{value:.9f}" for value in row[1 : len(COLUMNS)])

    def convert(self, atoms: "Atoms", beads: Path, centroids: Path) -> int:
        """Write all frames as extended XYZ.

        Beads have ``energy`` (eV), and ``step``, ``time_ps`` and ``bead`` for each; those of one
        frame follow each other. Centroids have the mean ``potential_energy``, the quantum
        ``kinetic_energy`` (eV), and ``step`` and ``time_ps``.

        Args:
            atoms: The structure, for its elements, masses and cell.
            beads: File to write.
            centroids: File to write.

        Returns:
            The number of frames.
        """
        rotation = to_ipi(atoms)[2]
        asides = [path.with_name(f"{path.name}.part") for path in (beads, centroids)]
        frames = 0
        with open(asides[0], "w") as many, open(asides[1], "w") as few:
            for row, positions in zip(self.table(), self.positions(), strict=False):
                self._write_frame(many, few, atoms, row, positions @ rotation)
                frames += 1
        for aside, path in zip(asides, (beads, centroids), strict=True):
            os.replace(aside, path)
        return frames

    def _write_frame(
        self, many: IO[str], few: IO[str], atoms: "Atoms", row: np.ndarray, positions: np.ndarray
    ) -> None:
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.io import write

        known = dict(zip(COLUMNS, row, strict=False))
        when = {"step": round(known["step"]), "time_ps": round(float(known["time"]), 9)}
        for bead, (energy, at) in enumerate(zip(row[len(COLUMNS) :], positions, strict=True)):
            image = self._image(atoms, at, {**when, "bead": bead})
            image.calc = SinglePointCalculator(image, energy=float(energy))
            write(many, image, format="extxyz")
        energies = {
            "potential_energy": float(known["potential"]),
            "kinetic_energy": float(known["kinetic_cv"]),
        }
        write(few, self._image(atoms, positions.mean(0), {**when, **energies}), format="extxyz")

    def _image(self, atoms: "Atoms", positions: np.ndarray, info: dict[str, object]) -> "Atoms":
        from ase import Atoms

        image = Atoms(
            atoms.numbers,
            positions,
            masses=atoms.arrays.get("masses"),
            cell=atoms.cell,
            pbc=atoms.pbc,
        )
        image.info.update(info)
        return image

    def _frame_size(self, path: Path) -> int:
        """Bytes of a frame: cell, atoms, positions, names and title, all of fixed length."""
        with open(path, "rb") as file:
            head = file.read(4096 + 64 * self.num_atoms)
        end = head.find(_END)
        return 0 if end < 0 else end + len(_END)


def _number(path: Path) -> int:
    return int(re.findall(r"\d+", path.name)[-1])
