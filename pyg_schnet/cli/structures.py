"""Structures that a command names: files, or molecules of a data set."""

from pathlib import Path
from typing import Any


def read_structures(file: str, index: str) -> Any:
    """The structures of a file: of CIFs and pymatgen's JSON by their own reader, else by ASE's.

    ``qm9:FOLDER`` stands for the molecules of the data set that is stored there.
    """
    from pyg_schnet.simulation import read_file

    if file.startswith("qm9:"):
        return _molecules_of_qm9(file.removeprefix("qm9:"), index)
    if not {".cif", ".json"} & {suffix.lower() for suffix in Path(file).suffixes}:
        return read_file(file, index)
    from ase.io.formats import string2index

    from pyg_schnet.datasets.crystal_files import read_crystals

    chosen = string2index(index)
    crystals = list(read_crystals(file))
    return crystals[chosen] if isinstance(chosen, slice) else [crystals[chosen]]


def _molecules_of_qm9(root: str, index: str) -> list[Any]:
    from ase.io.formats import string2index

    from pyg_schnet.datasets import QM9

    rows, chosen = QM9(root, target="U0"), string2index(index)
    picked = range(len(rows))[chosen] if isinstance(chosen, slice) else [chosen]
    return [rows[row] for row in picked]
