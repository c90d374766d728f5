"""Small organic molecules in any number: those of ASE's G2 set, with displaced atoms."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

ELEMENTS = frozenset("HCNOF")


def known() -> list[tuple[list[str], np.ndarray]]:
    """Symbols and positions (N, 3), Å, of molecules of nine atoms or more."""
    from ase.build import molecule
    from ase.collections import g2

    made = [molecule(name) for name in g2.names]
    chosen = [one for one in made if ELEMENTS.issuperset(one.symbols) and len(one) >= 9]
    return [(list(one.symbols), one.positions) for one in chosen]


def displaced(count: int, seed: int = 0) -> Iterator[tuple[list[str], np.ndarray]]:
    """Molecules drawn at random, each atom displaced by 0.05 Å along each axis."""
    rng, base = np.random.default_rng(seed), known()
    for k in rng.integers(len(base), size=count):
        symbols, pos = base[k]
        yield symbols, pos + rng.normal(0.0, 0.05, pos.shape)


def write_extxyz(path: str | Path, count: int, seed: int = 0) -> float:
    """Write so many molecules; returns the size of the file in MB."""
    with open(path, "w") as file:
        for symbols, pos in displaced(count, seed):
            atoms = zip(symbols, pos.tolist(), strict=True)
            lines = ["{} {:.6f} {:.6f} {:.6f}\n".format(symbol, *xyz) for symbol, xyz in atoms]
            file.write(f'{len(symbols)}\nProperties=species:S:1:pos:R:3 pbc="F F F"\n')
            file.writelines(lines)
    return round(Path(path).stat().st_size / 1e6, 1)
