"""Predictions for anything that ASE reads."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Data

from pyg_schnet.models import Potential
from pyg_schnet.models.networks import Network

if TYPE_CHECKING:
    from ase import Atoms


def atoms_to_data(atoms: "Atoms", dtype: torch.dtype = torch.float32) -> Data:
    """An ASE structure as PyG data: ``z``, ``pos``, and for periodic ones ``cell`` and ``pbc``.

    The cell is as ASE has it: a slab or a wire may have vectors that are zero, and then no stress.

    Args:
        atoms: The structure.
        dtype: Of positions and cell.

    Raises:
        ValueError: If a position is not finite, or a periodic direction has no lattice vector.

    Example:
        >>> from ase.build import molecule
        >>> atoms_to_data(molecule("H2O"))
        Data(pos=[3, 3], z=[3])
    """
    if not np.isfinite(atoms.positions).all():
        bad = int(np.flatnonzero(~np.isfinite(atoms.positions).all(1))[0])
        raise ValueError(
            f"Atom {bad} has the position {atoms.positions[bad]}, which is not finite."
        )
    data = Data(
        z=torch.from_numpy(atoms.numbers.astype(np.int64)),
        pos=torch.tensor(atoms.positions, dtype=dtype),
    )
    if atoms.pbc.any():
        if atoms.cell.rank < 3 and atoms.cell.array[atoms.pbc].any(axis=1).sum() < atoms.pbc.sum():
            raise ValueError(
                f"The structure is periodic in {atoms.pbc.tolist()} but its cell is "
                f"{atoms.cell.array.tolist()}; give a lattice vector for each periodic direction."
            )
        data.cell = torch.tensor(atoms.cell.array, dtype=dtype).view(1, 3, 3)
        data.pbc = torch.from_numpy(atoms.pbc.copy()).view(1, 3)
    return data


def predict_file(
    path: str | os.PathLike[str], model: nn.Module, forces: bool = False, index: str = ":"
) -> Iterator[dict[str, object]]:
    """Predict each structure of a file, one after the other.

    Args:
        path: Anything that ASE reads.
        model: A :class:`~pyg_schnet.SchNet` or :class:`~pyg_schnet.DTNN`, or a
            :class:`~pyg_schnet.Potential` of one.
        forces: Forces too.
        index: Which structures, in ASE's notation.

    Yields:
        "index", "formula", "prediction" (float, in the unit of the model) and, if asked for,
        "forces" (N, 3) NumPy.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ASE cannot read it; the sentence names the file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ase.build import molecule
        >>> from pyg_schnet import pretrained
        >>> with TemporaryDirectory() as folder:
        ...     molecule("CH3CH2OH").write(f"{folder}/ethanol.xyz")
        ...     (found,) = predict_file(f"{folder}/ethanol.xyz", pretrained("qm9-mu"))
        >>> found["formula"], 1.4 < found["prediction"] < 1.9
        ('C2H6O', True)
    """
    yield from predict_structures(read_file(path, index), model, forces)


def read_file(path: str | os.PathLike[str], index: str = ":") -> Iterator[Data]:
    """Read the structures of a file, one after the other.

    Args:
        path: Anything that ASE reads.
        index: Which structures, in ASE's notation.

    Yields:
        As :func:`atoms_to_data`, in float64.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ASE cannot read it; the sentence names the file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ase.build import molecule
        >>> with TemporaryDirectory() as folder:
        ...     molecule("H2O").write(f"{folder}/water.xyz")
        ...     next(read_file(f"{folder}/water.xyz")).z.tolist()
        [8, 1, 1]
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no structure file at {path}.")
    yield from _read(path, index)


def predict_structures(
    structures: Iterable[Data], model: nn.Module, forces: bool = False
) -> Iterator[dict[str, object]]:
    """Predict structures, one after the other.

    Args:
        structures: Each with ``z`` (N,), ``pos`` (N, 3), Å, and where periodic ``cell`` (1, 3, 3),
            Å, and ``pbc`` (1, 3); of any dtype.
        model: A :class:`~pyg_schnet.SchNet` or :class:`~pyg_schnet.DTNN`, or a
            :class:`~pyg_schnet.Potential` of one.
        forces: Forces too.

    Yields:
        As :func:`predict_file`.

    Raises:
        ValueError: If the model is another, or a structure cannot be predicted.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import pretrained
        >>> benzene = atoms_to_data(molecule("C6H6"))
        >>> (found,) = predict_structures([benzene], pretrained("md17-benzene"), forces=True)
        >>> found["formula"], found["forces"].shape
        ('C6H6', (12, 3))
    """
    from ase.formula import Formula
    from ase.symbols import Symbols

    network = model.model if isinstance(model, Potential) else model
    if not isinstance(network, Network):
        raise ValueError(
            f"model must be a SchNet or a DTNN, or a Potential of one, got {type(model).__name__}."
        )
    weight = network.embedding.weight
    potential = Potential(network, forces=True) if forces else None
    network.eval()
    for number, given in enumerate(structures):
        data = Data(z=given.z, pos=given.pos.to(weight.dtype))
        if given.get("cell") is not None:
            data.cell, data.pbc = given.cell.to(weight.dtype), given.get("pbc")
        data = data.to(weight.device)
        symbols = str(Symbols(given.z.numpy()))
        row: dict[str, object] = {"index": number, "formula": f"{Formula(symbols):hill}"}
        if potential is not None:
            result = potential.eval()(data)
            row["prediction"] = float(result["energy"])
            row["forces"] = result["forces"].cpu().numpy()
        else:
            with torch.no_grad():
                out = network(
                    data.z,
                    data.pos,
                    cell=data.get("cell"),
                    pbc=data.get("pbc"),
                    num_graphs=1,
                    dtype=torch.float64,
                )
            row["prediction"] = float(out)
        yield row


def _read(path: str | os.PathLike[str], index: str) -> Iterator[Data]:
    from ase.io import iread

    structures = iread(path, index)
    number = 0
    while True:
        try:
            atoms = next(structures)
        except StopIteration:
            return
        except Exception as error:  # ASE's readers raise what their formats happen to raise
            raise ValueError(
                f"ASE cannot read structure {number} of {path}: {type(error).__name__}: {error}"
            ) from error
        yield atoms_to_data(atoms, torch.float64)
        number += 1
