"""The QM9 models of 2018 to which ``torch_geometric.nn.SchNet.from_qm9_pretrained`` points."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from pyg_schnet.interop.pickled_modules import read_module
from pyg_schnet.interop.schnetpack_description import build
from pyg_schnet.interop.schnetpack_layouts import described_module
from pyg_schnet.models import SchNet
from pyg_schnet.units import BOHR, DEBYE

TARGETS = (
    "dipole_moment",
    "isotropic_polarizability",
    "homo",
    "lumo",
    "gap",
    "electronic_spatial_extent",
    "zpve",
    "energy_U0",
    "energy_U",
    "enthalpy_H",
    "free_energy",
    "heat_capacity",
)
"""Names of the models, by the number of the target in PyG's QM9."""

_FOLDER = "trained_schnet_models"
# The models compute in units of e, eV and Å; PyG's data set has Debye, Bohr³ and Bohr².
_UNITS = {0: DEBYE, 1: BOHR**3, 5: BOHR**2}
_LARGEST = 2**30  # bytes of a member; a model has 3 MB


def from_qm9_pretrained(
    path: str | os.PathLike[str], target: int
) -> tuple[SchNet, dict[str, np.ndarray]]:
    """A model of ``trained_schnet_models.zip`` and the molecules that it was trained on.

    The archive (www.quantum-machine.org/datasets/trained_schnet_models.zip) holds whole modules of
    SchNetPack 0.x as pickles. PyG unpickles them with SchNetPack installed; here none of their
    code is run, see :func:`~pyg_schnet.interop.from_schnetpack`, and nothing is unpacked to disk.
    The archive is not downloaded.

    Args:
        path: The archive, or the folder that it unpacks to.
        target: Number of the property in PyG's QM9, 0 to 11.

    Returns:
        The model, in evaluation mode, in the units of PyG's QM9 (Debye, Bohr³, eV, Bohr²,
        cal/(mol K) as trained); and "train_idx", "val_idx" and "test_idx", numbers of molecules
        in the raw data, from 0. The dipole moment is a magnitude.

    Raises:
        FileNotFoundError: If there is no such archive or folder, or the model is not in it.
        ValueError: If ``target`` is another number or the files are not what they should be.
    """
    if target not in range(len(TARGETS)):
        raise ValueError(f"target must be one of 0 to {len(TARGETS) - 1}, got {target}.")
    name = f"qm9_{TARGETS[target]}"
    model = read_module(_member(Path(path), name, "best_model"))
    known = described_module(model)
    if known.head == "DipoleMoment":
        known.magnitude = True
    made = build(known)
    made.readout.scale.fill_(1.0 / _UNITS.get(target, 1.0))
    try:
        with np.load(
            io.BytesIO(_member(Path(path), name, "split.npz")), allow_pickle=False
        ) as file:
            split = {key: file[key] for key in ("train_idx", "val_idx", "test_idx")}
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"split.npz of {name} cannot be read as plain arrays ({error})."
        ) from error
    return made, split


def _member(path: Path, name: str, file: str) -> bytes:
    """The bytes of one file of a model."""
    if path.is_dir():
        for folder in (path / _FOLDER / name, path / name):
            if (folder / file).is_file():
                return (folder / file).read_bytes()
        raise FileNotFoundError(f"There is no {name}/{file} in {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no archive or folder {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{_FOLDER}/{name}/{file}")
            if entry.file_size > _LARGEST:
                raise ValueError(f"{name}/{file} of {path} would unpack to more than 1 GiB.")
            return archive.read(entry)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} cannot be read as a zip archive ({error}).") from error
    except KeyError as error:
        raise FileNotFoundError(f"There is no {name}/{file} in {path}.") from error


__all__ = ["TARGETS", "from_qm9_pretrained"]
