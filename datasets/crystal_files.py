"""Single structure files: CIF, POSCAR, pymatgen's JSON, whatever ASE reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from pyg_schnet.datasets.ase_files import read_ase
from pyg_schnet.datasets.crystal_cif import read_by_pymatgen, read_plain
from pyg_schnet.datasets.crystal_neighbors import check_neighbors
from pyg_schnet.datasets.crystal_sources import open_text
from pyg_schnet.datasets.crystal_structure import Crystal, check, from_atoms, from_dict
from pyg_schnet.datasets.sources import in_brief, is_of_disk

_COMPRESSED = (".gz", ".bz2", ".xz")


def read_crystals(path: str | Path) -> Iterator[Data]:
    """Every crystal of a file, checked as those of :class:`~.materials_project.MaterialsProject`.

    The format is told by the name: ``.cif`` (symmetry is applied), ``.json`` (a pymatgen
    ``Structure``, an entry that holds one, or a list of them); all others are read by ASE, such as
    POSCAR, CONTCAR, vasprun.xml, .xsf, .extxyz. CIF and JSON may be compressed (.gz, .bz2, .xz).
    Oxidation states are dropped: Fe3+ is Fe.

    Args:
        path: The file.

    Yields:
        Per crystal ``z`` (N,) int64; ``pos`` (N, 3) float32, Å; ``cell`` (1, 3, 3) float32, Å, rows
        are lattice vectors; ``pbc`` (1, 3) bool; ``material_id``, the name of the file, with the
        number of the structure where there are several.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and structure, if it cannot be read, has no cell or one without
            volume, disordered sites, atoms on one point, or what is no element up to Z = 99.
        ImportError: if pymatgen is needed and not installed.

    >>> import ase.build, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ase.build.bulk("Fe").write(f"{folder}/POSCAR")
    ...     [iron] = read_crystals(f"{folder}/POSCAR")
    >>> iron.z.tolist(), iron.cell.shape, iron.material_id
    ([26], torch.Size([1, 3, 3]), 'POSCAR')
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a file with a crystal")
    crystals = _read(path)
    k = 0
    held: Crystal | None = None
    while True:
        # One is held back, as the first is only numbered where there is a second.
        try:
            crystal = next(crystals, None)
            if crystal is not None:
                check(crystal)
                if refused := check_neighbors([crystal], None)[0]:
                    raise refused
        except ValueError as error:
            if str(path) in str(error):
                raise
            raise ValueError(f"{path}, structure {k}: {error}") from error
        if held is not None:
            yield to_data(held, path.name if crystal is None and k == 1 else f"{path.name}:{k - 1}")
        if crystal is None:
            if k == 0:
                raise ValueError(f"{path} holds no structure")
            return
        held = crystal
        k += 1


def to_data(crystal: Crystal, material_id: str) -> Data:
    """A crystal as PyG data, as in the data set, without targets."""
    return Data(
        z=torch.from_numpy(crystal.z),
        pos=torch.from_numpy(crystal.pos.astype(np.float32)),
        cell=torch.from_numpy(crystal.cell.astype(np.float32))[None],
        pbc=torch.from_numpy(crystal.pbc)[None],
        material_id=material_id,
    )


def _read(path: Path) -> Iterator[Crystal]:
    plain = Path(path.stem if path.suffix.lower() in _COMPRESSED else path.name)
    if plain.suffix.lower() == ".cif":
        text = _text(path)
        crystal = read_plain(text)
        yield from [crystal] if crystal is not None else read_by_pymatgen(text)
    elif plain.suffix.lower() == ".json":
        try:
            content = json.loads(_text(path))
        except (ValueError, RecursionError) as error:
            what = in_brief(error)
            raise ValueError(f"{path} is cut off or no JSON ({what}): get it anew") from error
        for entry in content if isinstance(content, list) else [content]:
            yield from_dict(_find_structure(entry))
    else:
        for atoms, _ in read_ase(path):
            yield from_atoms(atoms)


def _find_structure(entry: Any) -> Any:
    if isinstance(entry, dict) and "sites" not in entry and "structure" in entry:
        return entry["structure"]
    return entry


def _text(path: Path) -> str:
    try:
        with open_text(path) as file:
            return file.read()
    except Exception as error:  # the decoders raise whatever the bytes lead to
        if is_of_disk(error) or str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be read ({in_brief(error)}): get it anew") from error
