"""Any trajectory: whatever ASE reads, ASE databases, and sGDML's npz files, as one data set."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch_geometric.data import Data
from tqdm import tqdm

from pyg_schnet.datasets.ase_files import (
    Frame,
    Paths,
    find_files,
    look_up,
    missing,
    read_ase,
    read_database,
)
from pyg_schnet.datasets.base import Source, StoredDataset
from pyg_schnet.datasets.frames import Frames, check_finite, in_chunks, join
from pyg_schnet.datasets.frames_files import alone
from pyg_schnet.datasets.npz import read_npz
from pyg_schnet.datasets.on_disk import FramesWriter, in_memory, map_frames
from pyg_schnet.datasets.unit_names import ENERGY, LENGTH, STRESS, factor

if TYPE_CHECKING:
    from ase import Atoms

# Where a quantity stands when no key is given: as ASE's calculators call it. No guess beyond that,
# as files hold several energies (with dispersion or without, of a free atom, of another method).
_STANDARD = {"energy": "energy", "forces": "forces", "stress": "stress"}
_VOIGT = [0, 5, 4, 5, 1, 3, 4, 3, 2]  # xx yy zz yz xz xy to a full matrix


class Trajectories(StoredDataset):
    """Structures with energies, forces and stresses from files of any format that ASE reads.

    Per frame (a :class:`torch_geometric.data.Data`; N atoms):

    ==========  ==================  =============================================================
    ``z``       (N,) int64          atomic numbers
    ``pos``     (N, 3) float32      positions, Å
    ``energy``  (1,) float64        eV
    ``forces``  (N, 3) float32      eV/Å; left out if the files have none
    ``stress``  (1, 3, 3) float64   eV/Å^3, ASE's sign: (1/V) dE/dstrain, negative if compressed;
                                    NaN for frames without; left out if there is none at all
    ``cell``    (1, 3, 3) float32   rows are lattice vectors, Å; left out, as ``pbc``, if no
    ``pbc``     (1, 3) bool         frame is periodic
    ``idx``     (1,) int64          number of the frame in its file
    ==========  ==================  =============================================================

    Formats are found by name, as ``ase.io`` does (extxyz, traj, vasprun.xml, OUTCAR, ...; also with
    ``.gz``), ``.db`` is an ASE database and ``.npz`` a trajectory of sGDML or rMD17. Compositions
    may differ, and periodic and open structures may be mixed. Files are read as streams, in chunks
    of 1000 frames.

    A key is looked for, in this order, among ``atoms.info``, ``atoms.arrays`` and the results of
    ``atoms.calc`` (what VASP's outputs and ASE's own formats have, and extxyz under the names
    energy, forces, stress); in a database, among key_value_pairs, ``row.data`` and the results.

    Several files become named splits, called as the files: ``data.split("train.xyz")``.

    Args:
        paths: File, or files, or a pattern such as ``"runs/*.traj"``.
        energy_key: Name of the energy; None: ``energy`` of the calculator; False: none wanted. VASP
            gives ``energy`` (extrapolated to zero smearing) and ``free_energy`` (whose
            derivatives the forces are).
        forces_key: The same of the forces; None: ``forces``, if the first frame has them.
        stress_key: The same of the stress; None: ``stress``, where there is one. 6 numbers (xx yy
            zz yz xz xy), 9 or (3, 3).
        virial_key: A virial instead, in the unit of the energy: stress = -virial / volume.
        energy_unit: Unit of the energies; None: eV, and in npz files what they say (it must be
            given if they say nothing, as MD17's kcal/mol would be lost).
        length_unit: The same of positions and cells; None: Å. Forces are in the unit of the energy
            over that of length.
        stress_unit: ``"eV/Å^3"``, ``"GPa"``, ``"kbar"``, ``"bar"``; None: from energy and length.
        root: Folder for a processed file, which later calls with the same files and arguments
            load; None: nothing is kept.
        in_memory: False: frames stay on the disk under ``root``, where they are written as they are
            read, and are read when they are asked for (:class:`~.on_disk.OnDiskFrames`). For more
            frames than there is memory.
        transform: Applied to each frame at every access.
        pre_transform: Applied once.
        pre_filter: Only frames for which this is true are kept.
        split: Only the frames of this file.
        force_reload: Process anew, though there is a processed file.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a unit is unknown; or, with file and frame, if a frame cannot be read, lacks
            what is asked for or what earlier frames have, has the wrong shape, or a number that is
            not finite.

    >>> import ase, tempfile
    >>> from ase.calculators.singlepoint import SinglePointCalculator
    >>> atoms = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    >>> atoms.calc = SinglePointCalculator(atoms, energy=-31.7, forces=[[0, 0, -1], [0, 0, 1]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atoms.write(f"{folder}/h2.extxyz")
    ...     data = Trajectories(f"{folder}/h2.extxyz")
    >>> data[0].energy.item(), data[0].energy.dtype, data[0].forces.tolist()
    (-31.7, torch.float64, [[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    """

    noun = "frames"

    def __init__(
        self,
        paths: Paths,
        energy_key: str | bool | None = None,
        forces_key: str | bool | None = None,
        stress_key: str | bool | None = None,
        *,
        virial_key: str | None = None,
        energy_unit: str | None = None,
        length_unit: str | None = None,
        stress_unit: str | None = None,
        root: str | Path | None = None,
        in_memory: bool = True,
        split: str | None = None,
        transform: Callable[[Data], Data] | None = None,
        pre_transform: Callable[[Data], Data] | None = None,
        pre_filter: Callable[[Data], bool] | None = None,
        force_reload: bool = False,
    ) -> None:
        if stress_key and virial_key:
            raise ValueError(
                f"stress_key={stress_key!r} and virial_key={virial_key!r} are given: choose one"
            )
        self.is_in_memory = in_memory
        if not in_memory:
            if root is None:
                raise ValueError("in_memory=False keeps frames on the disk: give a root for them")
            if pre_transform is not None or pre_filter is not None:
                raise ValueError(
                    "in_memory=False writes frames as they are read, without pre_transform and "
                    "pre_filter: use transform, and choose rows"
                )
        self.paths = find_files(paths)
        keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
        for name, key in keys.items():
            if key is True:
                raise ValueError(f"{name}_key=True names nothing: give a name, None or False")
        self._keys = {name: key for name, key in keys.items() if key is not False}
        self._virial_key = virial_key
        self._units = {"energy": energy_unit, "length": length_unit, "stress": stress_unit}
        self._to_ev = factor(energy_unit or "eV", ENERGY, "energy_unit")
        self._to_angstrom = factor(length_unit or "Å", LENGTH, "length_unit")
        self._to_stress = (
            self._to_ev / self._to_angstrom**3
            if stress_unit is None
            else factor(stress_unit, STRESS, "stress_unit")
        )
        super().__init__(
            root,
            split=split,
            transform=transform,
            pre_transform=pre_transform,
            pre_filter=pre_filter,
            force_reload=force_reload,
        )

    @property
    def processed_file_names(self) -> list[str]:
        """The one file that everything is read from; another for other files or arguments."""
        files = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in self.paths]
        told = json.dumps([files, self._keys, self._virial_key, self._units])
        name = f"trajectories-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        return [f"{name}.safetensors" if self.is_in_memory else name]

    def read(self) -> Source:
        """Reads all files, one after the other."""
        counts: list[int] = []
        data, slices = join(self._chunks(counts))
        if "stress" in data and bool(data.stress.isnan().all()):
            del data.stress, slices["stress"]
        if not bool(data.pbc.any()):
            del data.cell, data.pbc, slices["cell"], slices["pbc"]
        names = self._names()
        splits = {}
        if 1 < len(names) < 64:
            rows = torch.arange(sum(counts)).split(counts)
            splits = dict(zip(names, rows, strict=True))
        return Source(", ".join(names), data, slices, splits)

    def _names(self) -> list[str]:
        names = [path.name for path in self.paths]
        return names if len(set(names)) == len(names) else [str(path) for path in self.paths]

    def _process(self) -> None:
        if self.is_in_memory:
            super()._process()
            return
        # The processes of one run come here together; one writes, the others find it.
        with alone(Path(self.processed_paths[0])):
            super()._process()

    def process(self) -> None:
        """Reads the files and writes the processed file, or the folder of frames on the disk."""
        if self.is_in_memory:
            super().process()
            return
        folder, names, counts = Path(self.processed_paths[0]), self._names(), list[int]()
        if folder.exists():
            shutil.rmtree(folder)
        told = {"data_set": type(self).__name__, "source": ", ".join(names)}
        has_stress = is_periodic = False
        with FramesWriter(folder, metadata=told) as writer:
            for chunk in self._chunks(counts):
                writer.add(chunk)
                is_periodic |= bool(chunk.columns["pbc"].any())
                if "stress" in chunk.columns:
                    has_stress |= not np.isnan(chunk.columns["stress"]).all()
            if not has_stress:
                writer.drop("stress")
            if not is_periodic:
                writer.drop("cell", "pbc")
            if 1 < len(names) < 64:
                ends = np.cumsum(counts).tolist()
                bounds = zip([0, *ends[:-1]], ends, strict=True)
                writer.mark(dict(zip(names, bounds, strict=True)))

    def load(self, path: str, data_cls: type[Data] = Data) -> None:
        """Loads a processed file, or opens the folder of frames on the disk.

        Raises:
            ValueError: if it is damaged.
        """
        if self.is_in_memory:
            super().load(path, data_cls)
        else:
            self._take(*map_frames(Path(path)))

    def get(self, idx: int) -> Data:
        """One frame, before the transform.

        Args:
            idx: Row in this data set.
        """
        return super().get(idx) if self.is_in_memory else in_memory(super().get(idx))

    def _chunks(self, counts: list[int]) -> Iterator[Frames]:
        """Frames of all files; the number of each is appended to ``counts``."""
        has_forces: bool | None = None
        with tqdm(desc="Trajectories", unit=" frames", disable=None) as bar:
            for path in self.paths:
                counts.append(0)
                frames = self._npz(path) if path.suffix == ".npz" else self._frames(path)
                for chunk in frames:
                    # Told with the file and the frame; join() could only tell that they differ.
                    if has_forces is not None and has_forces != ("forces" in chunk.columns):
                        have = ("no forces", "forces")[has_forces]
                        raise ValueError(
                            f"{path}, frame {counts[-1]}: earlier files have {have} and this one "
                            f"differs: pass forces_key=False to leave them out, or read apart"
                        )
                    has_forces = "forces" in chunk.columns
                    yield chunk
                    counts[-1] += len(chunk.num_atoms)
                    bar.update(len(chunk.num_atoms))
                if not counts[-1]:
                    raise ValueError(f"{path} holds no frames: leave it out")

    def _npz(self, path: Path) -> Iterator[Frames]:
        given = {name: key for name, key in self._keys.items() if isinstance(key, str)}
        frames = read_npz(
            path,
            energy_unit=self._units["energy"],
            length_unit=self._units["length"],
            default_units=None if self._units["energy"] is None else ("eV", "Ang"),
            keys=given,
            want=[name for name in ("energy", "forces") if name in self._keys],
        )
        count = len(frames.num_atoms)
        columns = {key: frames.columns[key] for key in frames.columns if key != "old_idx"}
        columns.setdefault("cell", np.zeros((count, 3, 3)))
        columns.setdefault("pbc", np.zeros((count, 3), dtype=bool))
        if self._wants_stress:
            columns["stress"] = np.full((count, 3, 3), np.nan)
        yield Frames(frames.num_atoms, columns)

    @property
    def _wants_stress(self) -> bool:
        return "stress" in self._keys or self._virial_key is not None

    def _frames(self, path: Path) -> Iterator[Frames]:
        read = read_database if path.suffix == ".db" else read_ase
        first = 0
        for chunk in in_chunks(self._convert(read(path), path)):
            for name in ("energy", "pos", "forces"):
                if name in chunk.columns:
                    _check(chunk, name, path, first)
            yield chunk
            first += len(chunk.num_atoms)

    def _convert(self, frames: Iterator[Frame], path: Path) -> Iterator[dict[str, np.ndarray]]:
        has_forces = self._keys.get("forces") is not None
        for k, (atoms, places) in enumerate(frames):
            place = f"{path}, frame {k}"
            numbers = atoms.numbers
            if not len(numbers) or (numbers < 1).any():
                what = "an atom of no element" if len(numbers) else "no atoms"
                raise ValueError(f"{place} has {what}: leave the frame out")
            frame = {
                "z": numbers,
                "pos": atoms.positions * self._to_angstrom,
                "cell": np.asarray(atoms.cell) * self._to_angstrom,
                "pbc": atoms.pbc,
                "idx": np.array(k),
            }
            if "energy" in self._keys:
                value = self._find(places, "energy", place)
                if value is None:
                    raise ValueError(missing("energy", None, place, places))
                frame["energy"] = _shaped(value, (), "energy", place) * self._to_ev
            if "forces" in self._keys:
                value = self._find(places, "forces", place)
                if k == 0:
                    has_forces = value is not None
                elif has_forces != (value is not None):
                    lacks = "lacks forces, which" if has_forces else "has forces, which not all of"
                    raise ValueError(
                        f"{place} {lacks} the frames before it have: leave such frames out, or "
                        f"pass forces_key=False to leave forces out"
                    )
                if value is not None:
                    shaped = _shaped(value, (len(numbers), 3), "forces", place)
                    frame["forces"] = shaped * (self._to_ev / self._to_angstrom)
            if self._wants_stress:
                frame["stress"] = self._stress(places, atoms, place)
            yield frame

    def _find(self, places: Sequence[Mapping[str, Any]], name: str, place: str) -> Any:
        key = self._keys[name]
        value = look_up(places, _STANDARD[name] if key is None else str(key))
        if value is None and key is not None:
            raise ValueError(missing(name, str(key), place, places))
        return value

    def _stress(
        self, places: Sequence[Mapping[str, Any]], atoms: "Atoms", place: str
    ) -> np.ndarray:
        key = self._virial_key or self._keys["stress"]
        value = look_up(places, str(key or _STANDARD["stress"]))
        if value is None:
            if key is not None and atoms.pbc.all():
                raise ValueError(missing("stress", str(key), place, places))
            return np.full((3, 3), np.nan)
        numbers = np.asarray(value, dtype=np.float64).reshape(-1)
        if numbers.size not in (6, 9):
            raise ValueError(f"{place}: the stress has {numbers.size} numbers and must have 6 or 9")
        stress = (numbers[_VOIGT] if numbers.size == 6 else numbers).reshape(3, 3)
        if not np.isfinite(stress).all():
            raise ValueError(f"{place}: the stress is not finite: leave the frame out")
        if self._virial_key is None:
            return stress * self._to_stress
        volume = abs(np.linalg.det(np.asarray(atoms.cell))) * self._to_angstrom**3
        if volume == 0:
            raise ValueError(f"{place} has a virial and a cell without volume: give it a cell")
        return -stress * self._to_ev / volume


def _shaped(value: Any, shape: tuple[int, ...], name: str, place: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {name} is no number but {value!r}") from error
    if array.size != np.prod(shape, dtype=int):
        raise ValueError(f"{place}: {name} has shape {array.shape} and {shape} is expected")
    return array.reshape(shape)


def _check(chunk: Frames, name: str, path: Path, first: int) -> None:
    values = chunk.columns[name]
    if name == "energy":
        frame = np.arange(len(values))
    else:
        frame = np.repeat(np.arange(len(chunk.num_atoms)), chunk.num_atoms)
    check_finite(values, name, lambda row: f"{path}, frame {first + int(frame[row])}")
