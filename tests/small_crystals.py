"""Crystals that everybody knows, written by hand in the formats that data sets come in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Name: lengths (Å), angles (degrees), species, fractional coordinates, formation energy (eV/atom).
CRYSTALS = {
    "NaCl": (
        [3.99, 3.99, 3.99],
        [60.0, 60.0, 60.0],
        ["Na", "Cl"],
        [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
        -2.1,
    ),
    "CaTiO3": (
        [3.9, 3.9, 3.9],
        [90.0, 90.0, 90.0],
        ["Ca", "Ti", "O", "O", "O"],
        [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]],
        -3.4,
    ),
    "Fe": ([2.48, 2.48, 2.48], [109.4712, 109.4712, 109.4712], ["Fe"], [[0.0, 0.0, 0.0]], 0.0),
    "ZrO2": (
        [5.15, 5.21, 5.32],
        [90.0, 99.2, 90.0],
        ["Zr", "Zr", "O", "O", "O", "O"],
        [
            [0.275, 0.040, 0.208],
            [0.725, 0.540, 0.292],
            [0.070, 0.330, 0.345],
            [0.930, 0.830, 0.155],
            [0.450, -0.243, 1.479],
            [0.550, 0.257, 0.021],
        ],
        -3.8,
    ),
}


def cif(
    name: str = "NaCl",
    species: Sequence[str] | None = None,
    frac: Sequence[Sequence[float]] | None = None,
    lengths: Sequence[float] | None = None,
    occupancy: float = 1,
    formula: str | None = None,
) -> str:
    """The CIF of a crystal as pymatgen writes it, or of one that differs from it."""
    known = CRYSTALS[name]
    lengths, angles = lengths or known[0], known[1]
    species, frac = species or known[2], frac if frac is not None else known[3]
    lines = ["# generated using pymatgen", f"data_{name}"]
    lines += ["_symmetry_space_group_name_H-M   'P 1'"]
    lines += [f"_cell_length_{axis}   {x:.8f}" for axis, x in zip("abc", lengths)]
    names = ("alpha", "beta", "gamma")
    lines += [f"_cell_angle_{angle}   {x:.8f}" for angle, x in zip(names, angles)]
    lines += ["_symmetry_Int_Tables_number   1"]
    if formula is not None:
        lines += [f"_chemical_formula_sum   '{formula}'"]
    lines += ["loop_", " _symmetry_equiv_pos_site_id", " _symmetry_equiv_pos_as_xyz"]
    lines += ["  1  'x, y, z'", "loop_", " _atom_site_type_symbol", " _atom_site_label"]
    lines += [" _atom_site_symmetry_multiplicity"]
    lines += [f" _atom_site_fract_{axis}" for axis in "xyz"] + [" _atom_site_occupancy"]
    for k, (symbol, (x, y, z)) in enumerate(zip(species, frac)):
        lines.append(f"  {symbol}  {symbol}{k}  1  {x:.8f}  {y:.8f}  {z:.8f}  {occupancy}")
    return "\n".join([*lines, ""])


def structure_dict(name: str, **changes: object) -> dict[str, object]:
    """A crystal as pymatgen's ``Structure.as_dict()`` has it, in a cell of another orientation."""
    lengths, angles, species, frac, _ = CRYSTALS[name]
    cos = np.cos(np.radians(angles))
    # The usual upper form of the Cholesky factor: a along x, b in the xy plane.
    gram = np.array(
        [
            [1.0, cos[2], cos[1]],
            [cos[2], 1.0, cos[0]],
            [cos[1], cos[0], 1.0],
        ]
    ) * np.outer(lengths, lengths)
    cell = np.linalg.cholesky(gram)
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": place, "label": symbol}
        for symbol, place in zip(species, frac)
    ]
    lattice = {"matrix": cell.tolist(), "pbc": [True, True, True]}
    return {"@class": "Structure", "lattice": lattice, "sites": sites, **changes}


def write_cgcnn(folder: Path, names: Sequence[str] = tuple(CRYSTALS)) -> Path:
    """A folder of CIFs with id_prop.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.cif").write_text(cif(name))
    table = "".join(f"{name},{CRYSTALS[name][4]}\n" for name in names)
    (folder / "id_prop.csv").write_text(table)
    return folder
