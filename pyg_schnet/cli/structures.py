"""Structures that a command names: files, or molecules of a data set."""

from pathlib import Path
from typing import Any

_STORED = {
    "qm9": ("qm9", "QM9", "U0"),
    "mp": ("materials_project", "MaterialsProject", None),
}
"""Data sets by the word before the colon: module, class, and the target that is asked for."""


def read_structures(file: str, index: str) -> Any:
    """The structures of a file: of CIFs and pymatgen's JSON by their own reader, else by ASE's.

    ``qm9:FOLDER`` and ``mp:FOLDER`` stand for the molecules or crystals of the data set that is
    stored there.
    """
    from pyg_schnet.simulation import read_file

    name, colon, root = file.partition(":")
    if colon and name in _STORED:
        return _stored(name, root, index)
    if not {".cif", ".json"} & {suffix.lower() for suffix in Path(file).suffixes}:
        if Path(file).suffix in (".xyz", ".extxyz") and Path(file).is_file():
            from pyg_schnet.datasets.ase_files import refuse_oversized

            refuse_oversized(Path(file), Path(file))
        return read_file(file, index)
    from ase.io.formats import string2index

    from pyg_schnet.datasets.crystal_files import read_crystals

    chosen = string2index(index)
    crystals = list(read_crystals(file))
    return crystals[chosen] if isinstance(chosen, slice) else [crystals[chosen]]


def structure_source(file: str) -> Any:
    """The structures of a file or of a data set's folder as a stream, as ``screen`` takes them."""
    from pyg_schnet.datasets.on_disk import open_folder
    from pyg_schnet.simulation.structure_streams import lazy_source, open_source

    if file.startswith("qm9:"):
        from pyg_schnet.datasets import QM9

        return open_source(QM9(file.removeprefix("qm9:"), target="U0"))
    if Path(file).is_dir():
        return open_source(open_folder(file))
    if not {".cif", ".json"} & {suffix.lower() for suffix in Path(file).suffixes}:
        return open_source(file)

    def crystals() -> list[Any]:
        from pyg_schnet.datasets.crystal_files import read_crystals

        return list(read_crystals(file))

    return lazy_source(file, crystals)


def _stored(name: str, root: str, index: str) -> list[Any]:
    from importlib import import_module

    from ase.io.formats import string2index

    module, kind, target = _STORED[name]
    rows = getattr(import_module(f"pyg_schnet.datasets.{module}"), kind)(root, target=target)
    chosen = string2index(index)
    picked = range(len(rows))[chosen] if isinstance(chosen, slice) else [chosen]
    return [rows[row] for row in picked]
