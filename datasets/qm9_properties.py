"""What QM9 tells of a molecule: names, units, and the energies of its atoms on their own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_schnet.units import HARTREE


@dataclass(frozen=True)
class Property:
    """One scalar property of a molecule.

    Args:
        symbol: As in formulas, LaTeX.
        description: In words.
        unit: Unit of the stored value.
        is_energy: Whether it is an energy in eV (in Hartree in the original files).
        is_extensive: Whether it grows in proportion to the molecule, so that a sum over atoms
            describes it; otherwise it belongs to the molecule as a whole.
    """

    symbol: str
    description: str
    unit: str
    is_energy: bool = False
    is_extensive: bool = False

    @property
    def factor(self) -> float:
        """Multiplies the value in the original files into :attr:`unit`."""
        return HARTREE if self.is_energy else 1.0


SCALARS = {
    "mu": Property(r"\mu", "dipole moment", "D"),
    "alpha": Property(r"\alpha", "isotropic polarizability", "Bohr^3", is_extensive=True),
    "homo": Property(
        r"\epsilon_{HOMO}", "energy of the highest occupied orbital", "eV", is_energy=True
    ),
    "lumo": Property(
        r"\epsilon_{LUMO}", "energy of the lowest unoccupied orbital", "eV", is_energy=True
    ),
    "gap": Property(r"\Delta\epsilon", "lumo - homo", "eV", is_energy=True),
    "r2": Property(r"\langle R^2 \rangle", "electronic spatial extent", "Bohr^2"),
    "zpve": Property("ZPVE", "zero-point vibrational energy", "eV", True, True),
    "U0": Property("U_0", "internal energy at 0 K", "eV", True, True),
    "U": Property("U", "internal energy at 298.15 K", "eV", True, True),
    "H": Property("H", "enthalpy at 298.15 K", "eV", True, True),
    "G": Property("G", "free energy at 298.15 K", "eV", True, True),
    "Cv": Property("C_v", "heat capacity at 298.15 K", "cal/(mol K)", is_extensive=True),
    "A": Property("A", "rotational constant", "GHz"),
    "B": Property("B", "rotational constant", "GHz"),
    "C": Property("C", "rotational constant", "GHz"),
}
"""The 15 scalars of the original files."""

ATOMIZATION = {
    f"{name}_atom": Property(
        f"{SCALARS[name].symbol}^{{atom}}",
        f"{SCALARS[name].description}, less that of the separate atoms",
        "eV",
        True,
        True,
    )
    for name in ("U0", "U", "H", "G")
}
"""Derived: negative for a bound molecule."""

PROPERTIES = SCALARS | ATOMIZATION

# Of single atoms, at the level of theory of the molecules: atomref.txt of the original data,
# Hartree (Cv: cal/(mol K)). A vibration needs two atoms, hence no zpve.
ATOM_REFERENCES = {
    "zpve": {1: 0.0, 6: 0.0, 7: 0.0, 8: 0.0, 9: 0.0},
    "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
    "Cv": {1: 2.981, 6: 2.981, 7: 2.981, 8: 2.981, 9: 2.981},
}


def check_target(name: str) -> str:
    """Returns the name if it is a property of QM9.

    Raises:
        ValueError: if not; lists the names that are.
    """
    if name not in PROPERTIES:
        raise ValueError(f"target {name!r} is not in QM9; there are {', '.join(PROPERTIES)}")
    return name


def atom_reference(name: str) -> Tensor | None:
    """Values of the separate atoms, by atomic number, in the property's unit.

    Args:
        name: A property of QM9.

    Returns:
        (100, 1) float64, zero for elements that are not in QM9; None for a property that has no
        such values.

    >>> round(atom_reference("U0")[1].item(), 5)   # hydrogen, eV
    -13.61312
    >>> atom_reference("mu") is None
    True
    """
    check_target(name)
    if name not in ATOM_REFERENCES:
        return None
    reference = torch.zeros(100, 1, dtype=torch.float64)
    for z, value in ATOM_REFERENCES[name].items():
        reference[z] = value * SCALARS[name].factor
    return reference
