"""Units by the names that data files give them, as factors to eV, Å, and what is made of them."""

from pyg_schnet import units

ENERGY = {
    "ev": 1.0,
    "mev": 1e-3,
    "kcal/mol": units.KCAL_PER_MOL,
    "kj/mol": units.KJ_PER_MOL,
    "hartree": units.HARTREE,
    "ha": units.HARTREE,
    "rydberg": units.RYDBERG,
    "ry": units.RYDBERG,
}
LENGTH = {
    "å": 1.0,
    "ang": 1.0,
    "angstrom": 1.0,
    "bohr": units.BOHR,
    "nm": 10.0,
}
STRESS = {
    "ev/å^3": 1.0,
    "ev/ang^3": 1.0,
    "gpa": units.GIGAPASCAL,
    "bar": units.BAR,
    "kbar": 1e3 * units.BAR,
}


def factor(unit: str, known: dict[str, float], what: str) -> float:
    """The factor from ``unit`` to eV, Å or eV/Å^3.

    Args:
        unit: A name; capitals do not matter.
        known: :data:`ENERGY`, :data:`LENGTH` or :data:`STRESS`.
        what: Words that name where the unit is from, for the error.

    Raises:
        ValueError: if the unit is not known.

    >>> factor("Bohr", LENGTH, "length_unit"), factor("eV", ENERGY, "energy_unit")
    (0.5291772105638411, 1.0)
    """
    # \\u212b is the sign for Ångström, which is another character than the letter.
    name = unit.strip().replace("\u212b", "Å").lower()
    if name not in known:
        raise ValueError(f"{what}={unit!r} is not a unit known here: use {', '.join(known)}")
    return known[name]
