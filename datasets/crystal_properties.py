"""What the sources tell of a crystal: names, units, and numbers in whatever they are written."""

import math
from dataclasses import dataclass
from typing import Any

from torch_geometric.data import Data


@dataclass(frozen=True)
class CrystalProperty:
    """One scalar property of a crystal; all are intensive.

    Args:
        description: In words.
        unit: Unit of the value; "" where the source does not tell.
    """

    description: str = ""
    unit: str = ""


KNOWN = {
    "formation_energy_per_atom": CrystalProperty("energy of formation from elements", "eV/atom"),
    "energy_above_hull": CrystalProperty("energy above the convex hull", "eV/atom"),
    "band_gap": CrystalProperty("band gap", "eV"),
    "energy_per_atom": CrystalProperty("total energy", "eV/atom"),
    "nsites": CrystalProperty("number of atoms in the cell"),
    "heat_all": CrystalProperty("heat of formation from all competing phases", "eV"),
    "heat_ref": CrystalProperty("heat of formation from reference phases", "eV"),
    "dir_gap": CrystalProperty("direct band gap", "eV"),
    "ind_gap": CrystalProperty("indirect band gap", "eV"),
    "efermi": CrystalProperty("Fermi energy", "eV"),
    "volume": CrystalProperty("volume of the cell", "Å^3"),
    "density": CrystalProperty("density", "g/cm^3"),
}

# The same under the names of the earlier API and of matbench.
_ALIASES = {
    "e_above_hull": "energy_above_hull",
    "e_form": "formation_energy_per_atom",
    "gap pbe": "band_gap",
}
# What else a crystal has under these names; "pbc" and "cell" are no attributes of the class.
_TAKEN = {"z", "y", "cell", "pbc", "material_id", "cell_shift", "edge_index", "pos"}
_WORDS = {"true": 1.0, "false": 0.0}


def canonical(name: str) -> str:
    """The name that a column goes by here.

    >>> canonical("e_above_hull"), canonical("heat_all")
    ('energy_above_hull', 'heat_all')
    """
    return _ALIASES.get(name, name)


def is_free(name: str) -> bool:
    """Whether a column may be an attribute of the data, which has names of its own."""
    is_index = not name or name.startswith("Unnamed:") or name == "index"
    return not is_index and name not in _TAKEN and not hasattr(Data, name)


def number(value: Any) -> float | None:
    """A float: NaN for an empty place, 1 and 0 for true and false, None for what is no number.

    >>> number("-0.5"), number("False"), number("P6_3/mmc"), number("")
    (-0.5, 0.0, None, nan)
    """
    if value is None or value == "":
        return math.nan
    if isinstance(value, str):
        value = _WORDS.get(value.strip().lower(), value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
