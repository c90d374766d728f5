"""Rows of a screening: CSV, or extended XYZ."""

import csv
import functools
import io
import json
from collections.abc import Sequence

import numpy as np

from pyg_schnet.simulation.structure_streams import Structure

Row = tuple[list[float], np.ndarray | None]
"""Values of a structure, and its forces (N, 3) where they are written."""


def table(rows: Sequence[Sequence[object]]) -> str:
    r"""Rows as CSV.

    Example:
        >>> table([("a", 1), ("b, c", 2)])
        'a,1\n"b, c",2\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def csv_rows(
    numbers: Sequence[int], structures: Sequence[Structure], rows: Sequence[Row], name: str | None
) -> str:
    r"""Lines of a table: file (unless it is the only one), index, formula, values.

    Example:
        >>> water = Structure(np.array([8, 1, 1]), np.eye(3))
        >>> csv_rows([7], [water], [([-76.4], None)], None)
        '7,H2O,-76.400000\n'
    """
    first = [] if name is None else [name]
    return table(
        [
            [*first, number, formula(structure.z), *(f"{value:.6f}" for value in values)]
            for number, structure, (values, _) in zip(numbers, structures, rows, strict=True)
        ]
    )


def xyz_frames(
    numbers: Sequence[int],
    structures: Sequence[Structure],
    rows: Sequence[Row],
    name: str | None,
    has_spread: bool = False,
) -> str:
    """Frames of extended XYZ with the energy, its spread and the forces, as far as they are known.

    Example:
        >>> atom = Structure(np.array([2]), np.zeros((1, 3)))
        >>> print(xyz_frames([7], [atom], [([-79.0], None)], None))
        1
        Properties=species:S:1:pos:R:3 energy=-79.0 index=7 pbc="F F F"
        He 0.00000000 0.00000000 0.00000000
        <BLANKLINE>
    """
    symbols, frames = element_symbols(), []
    file = "" if name is None else f"file={json.dumps(name)} "
    for number, one, (values, forces) in zip(numbers, structures, rows, strict=True):
        head, columns, arrays = "", "species:S:1:pos:R:3", one.pos
        if one.cell is not None:
            head = f'Lattice="{" ".join(repr(float(x)) for x in one.cell.ravel())}" '
        if forces is not None:
            columns, arrays = f"{columns}:forces:R:3", np.concatenate([one.pos, forces], axis=1)
        told = f"energy={values[0]!r} "
        if has_spread:
            told += f"energy_std={values[1]!r} "
        pbc = " ".join("T" if periodic else "F" for periodic in one.pbc)
        form = "%s" + " %.8f" * arrays.shape[1] + "\n"
        frames.append(
            f'{len(one.z)}\n{head}Properties={columns} {told}index={number} {file}pbc="{pbc}"\n'
        )
        atoms = zip(one.z.tolist(), arrays.tolist(), strict=True)
        frames += [form % (symbols[z], *of_atom) for z, of_atom in atoms]
    return "".join(frames)


def formula(z: np.ndarray) -> str:
    """The sum formula in Hill's order.

    Example:
        >>> formula(np.array([8, 6, 1, 1, 1, 1]))
        'CH4O'
    """
    return _formula(tuple(sorted(z.tolist())))


@functools.lru_cache(1 << 14)
def _formula(numbers: tuple[int, ...]) -> str:
    from ase.formula import Formula

    symbols, counts = element_symbols(), dict.fromkeys(numbers, 0)
    for number in numbers:
        counts[number] += 1
    return f"{Formula.from_dict({symbols[n]: count for n, count in counts.items()}):hill}"


@functools.cache
def element_symbols() -> list[str]:
    """Symbols by atomic number.

    Example:
        >>> element_symbols()[6]
        'C'
    """
    from ase.data import chemical_symbols

    return list(chemical_symbols)
