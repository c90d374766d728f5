"""MD17: molecular dynamics of small molecules with energies and forces, and its revisions."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Data

from pyg_schnet.datasets import md17_files
from pyg_schnet.datasets.base import Source, StoredDataset
from pyg_schnet.datasets.frames import Frames, join
from pyg_schnet.datasets.npz import formula, read_npz
from pyg_schnet.units import BOHR, HARTREE, KCAL_PER_MOL

# Energies of the separate atoms in Hartree. Bonds add about 1 % to a total energy, and units differ
# by factors of 23 and more: enough to tell a wrong one.
_ATOMS = {1: -0.50, 6: -37.8, 7: -54.6, 8: -75.0}


class MD17(StoredDataset):
    """MD17: trajectories of small molecules at 500 K, with energies and forces.

    Per frame (a :class:`torch_geometric.data.Data`; N atoms):

    ===========  ================  ==============================================================
    ``z``        (N,) int64        atomic numbers
    ``pos``      (N, 3) float32    positions, Å
    ``energy``   (1,) float64      total energy, eV
    ``forces``   (N, 3) float32    minus the gradient of the energy, eV/Å
    ``idx``      (1,) int64        row in the file, which published splits count
    ``old_idx``  (1,) int64        frame of the original trajectory, where the file tells (rMD17);
                                   -1 if unknown
    ===========  ================  ==============================================================

    Energies stay float64: in float32 aspirin's -17,600 eV is rounded by 1 meV.

    Three sets: the original labels (PBE with van der Waals corrections; Chmiela et al., Sci. Adv.
    3, e1603015 (2017)); the revised ones, ``revised=True`` (PBE/def2-SVP without the numerical
    noise; Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)), with
    splits ``train_01``, ``test_01`` to ``test_05``; and ``level="ccsd(t)"`` or ``"ccsd"`` (Chmiela
    et al., Nat. Commun. 9, 3887 (2018)), with splits ``train`` and ``test``.

    The file is looked for in ``raw``, then in ``root/raw``, then on the servers of its authors. It
    is processed once, into one file under ``root/processed``; several molecules may share a root.

    Differs from PyG's class of the same name: eV, energies in float64, no pickle, the splits.

    Args:
        root: Folder for what is downloaded and processed.
        molecule: One of :attr:`molecules`.
        revised: The revised set, rMD17.
        level: ``"dft"`` (the default), ``"ccsd(t)"``, or ``"ccsd"`` (aspirin).
        split: Only the frames of this published split.
        raw: The npz file (or zip, or rmd17.tar.bz2), or the folder that it lies in.
        transform: Applied to each frame at every access.
        pre_transform: Applied once, before the frames are stored.
        pre_filter: Only frames for which this is true are stored.
        force_reload: Process anew, though there is a processed file.

    Raises:
        ValueError: if there is no such molecule, level or split; or if the file is damaged, lacks
            an array, is of another molecule or in other units than it says, or a frame has other
            atoms or a number that is not finite.
        FileNotFoundError: if the file is neither here nor to be downloaded.

    >>> MD17.molecules[:3]
    ('benzene', 'uracil', 'naphthalene')
    """

    noun = "frames"
    molecules = tuple(md17_files.MOLECULES)

    def __init__(
        self,
        root: str | Path,
        molecule: str = "ethanol",
        revised: bool = False,
        level: str | None = None,
        split: str | None = None,
        raw: str | Path | None = None,
        transform: Callable[[Data], Data] | None = None,
        pre_transform: Callable[[Data], Data] | None = None,
        pre_filter: Callable[[Data], bool] | None = None,
        force_reload: bool = False,
    ) -> None:
        self.molecule = molecule
        self.revised = revised
        self.level = (level or "dft").lower()
        self.formula, self._names = md17_files.find_names(molecule, revised, self.level)
        super().__init__(
            root,
            raw,
            split,
            transform=transform,
            pre_transform=pre_transform,
            pre_filter=pre_filter,
            force_reload=force_reload,
        )

    @property
    def raw_file_names(self) -> list[str]:
        """The file of this molecule, as its server names it."""
        return [self._names[0]]

    @property
    def processed_file_names(self) -> list[str]:
        """The one file that everything is read from."""
        return [f"{Path(self._names[0]).stem}.safetensors"]

    def read(self) -> Source:
        """Reads and checks the file that is found first."""
        name, path = self._find_source()
        chunks: list[Frames] = []
        splits: dict[str, torch.Tensor] = {}
        first = 0
        for part, place, content in md17_files.open_parts(path, self._names[0]):
            frames = read_npz(place, content, default_units=("kcal/mol", "Ang"))
            self._check(frames, place)
            count = len(frames.num_atoms)
            frames.columns["idx"][:] += first
            if part:
                splits[part] = torch.arange(first, first + count)
            chunks.append(frames)
            first += count
        if self.revised:
            found = md17_files.find_splits(path, first)
            splits = {key: torch.from_numpy(rows) for key, rows in found.items()}
        return Source(name, *join(chunks), splits)

    def _find_source(self) -> tuple[str, Path]:
        name = self._names[0]
        if self.raw is not None:
            if not self.raw.exists():
                raise FileNotFoundError(
                    f"raw={self.raw} does not exist: give {name} or the folder that it lies in"
                )
            if not self.raw.is_dir():
                return self._raw_name(), self.raw
            path = md17_files.find_file(self.raw, self._names)
            if path is None:
                raise FileNotFoundError(
                    f"raw={self.raw} holds no file {' or '.join(self._names)}: give the folder "
                    f"that it lies in"
                )
            return self._raw_name(), path
        folder = Path(self.raw_dir)
        path = md17_files.find_file(folder, self._names) if folder.is_dir() else None
        if path is not None:
            return path.name, path
        try:
            return "download", md17_files.fetch(name, folder)
        except ConnectionError as error:
            raise FileNotFoundError(
                f"{name} is not on this computer and could not be downloaded ({error}): put it "
                f"into {folder}, or pass raw= with the file, or connect to the internet and try "
                f"again"
            ) from error

    def _check(self, frames: Frames, place: str) -> None:
        """Refuses another molecule, and numbers that cannot be in the units they should be in."""
        if not len(frames.num_atoms):
            raise ValueError(f"{place} holds no frames: get the file anew")
        columns, size = frames.columns, int(frames.num_atoms[0])
        z = columns["z"][:size]
        if formula(z) != self.formula:
            raise ValueError(
                f"{place} holds {formula(z)}, and molecule={self.molecule!r} is {self.formula}: "
                f"give the file of this molecule"
            )
        atoms = sum(_ATOMS[number] for number in z.tolist()) * HARTREE
        ratio = float(columns["energy"].mean()) / atoms
        if not 0.9 < ratio < 1.1:
            raise ValueError(
                f"{place}: the mean energy is {columns['energy'].mean():.6g} eV where a total "
                f"energy near {atoms:.0f} eV is expected{_guess(ratio)}; set e_unit in the file, "
                f"or read it by Trajectories(path, energy_unit=...)"
            )
        pos = columns["pos"][:size].astype(np.float64)
        distance = np.linalg.norm(pos[:, None] - pos, axis=-1)[~np.eye(size, dtype=bool)].min()
        if not 0.6 < distance < 1.5:
            raise ValueError(
                f"{place}, frame 0: the nearest atoms are {distance:.3g} Å apart where 0.8 to 1.1 "
                f"Å are usual{' (Bohr?)' if 0.6 < distance * BOHR < 1.5 else ''}; set r_unit in "
                f"the file, or read it by Trajectories(path, length_unit=...)"
            )
        rms = float(np.sqrt(np.mean(np.square(columns["forces"], dtype=np.float64))))
        if not 0.2 < rms < 6:
            warnings.warn(
                f"{place}: the root mean square of the forces is {rms:.3g} eV/Å and about 1.2 is "
                f"usual at 500 K: their unit may be another than the energies' over Å",
                stacklevel=2,
            )


def _guess(ratio: float) -> str:
    """The unit that energies read as kcal/mol may be in."""
    for unit, value in (("eV", 1.0), ("Hartree", HARTREE), ("kJ/mol", KCAL_PER_MOL / 4.184)):
        if 0.9 < ratio * value / KCAL_PER_MOL < 1.1:
            return f" (the energies look like {unit}, not kcal/mol)"
    return ""
