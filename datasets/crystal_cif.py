"""CIF texts to crystals: plain ones directly, all others by pymatgen, in several processes."""

import math
import re
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from pyg_schnet.datasets.crystal_structure import (
    Crystal,
    Refused,
    atomic_number,
    from_fractional,
    from_parameters,
    from_pymatgen,
)

_CELL = [f"_cell_length_{axis}" for axis in "abc"]
_CELL += [f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")]
# Tags that must have this value, if they are there at all.
_P1 = {
    "_symmetry_space_group_name_H-M": {"P 1", "P1"},
    "_space_group_name_H-M_alt": {"P 1", "P1"},
    "_symmetry_Int_Tables_number": {"1"},
    "_space_group_IT_number": {"1"},
}
_FORMULA, _UNITS = "_chemical_formula_sum", "_cell_formula_units_Z"
# Tags that say nothing about where which atoms are.
_SILENT = {"_chemical_formula_structural", "_cell_volume", "_chemical_name_common"}
_TAGS = {*_CELL, *_P1, *_SILENT, _FORMULA, _UNITS}
_OPERATIONS = {
    ("_symmetry_equiv_pos_site_id", "_symmetry_equiv_pos_as_xyz"),
    ("_symmetry_equiv_pos_as_xyz",),
    ("_space_group_symop_id", "_space_group_symop_operation_xyz"),
    ("_space_group_symop_operation_xyz",),
}
_OXIDATION = ("_atom_type_symbol", "_atom_type_oxidation_number")
_IDENTITY = re.compile(r"(?:1\s+)?(['\"]?)\s*x\s*,\s*y\s*,\s*z\s*\1")
_SYMBOL, _FRACT = "_atom_site_type_symbol", [f"_atom_site_fract_{axis}" for axis in "xyz"]
_OCCUPANCY, _MULTIPLICITY = "_atom_site_occupancy", "_atom_site_symmetry_multiplicity"
_COLUMNS = {_SYMBOL, "_atom_site_label", _OCCUPANCY, _MULTIPLICITY, *_FRACT}
_TERM = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*)?")


def read_cif(text: str) -> Crystal:
    """The one crystal in a CIF.

    Raises:
        Refused: if it cannot be read, there is not one but several, its sites are disordered, or
            a species is no element.
        ImportError: if pymatgen is needed and not installed.
    """
    crystal = read_plain(text)
    return _only(read_by_pymatgen(text)) if crystal is None else crystal


def _only(crystals: list[Crystal]) -> Crystal:
    if len(crystals) != 1:
        raise Refused("unreadable", f"the CIF holds {len(crystals)} structures and not one")
    return crystals[0]


def read_plain(text: str) -> Crystal | None:
    """Reads a CIF that lists every atom of the cell (space group P 1) and nothing unexpected.

    Such are the files that pymatgen and ASE write. Atoms stay in their order in the file.

    Returns:
        The crystal; None if there is anything in the text that this reader does not know, so that
        it is left to pymatgen.

    Raises:
        Refused: if what it does know shows that the file is damaged: no cell, or atoms that the
            chemical formula contradicts.
    """
    values: dict[str, str] = {}
    sites: tuple[list[str], list[list[str]]] | None = None
    has_identity = has_name = False
    lines = [line for raw in text.splitlines() if (line := raw.strip()) and line[0] != "#"]
    i, end = 0, len(lines)
    while i < end:
        line = lines[i]
        i += 1
        if line[0] == "_":
            tag, *value = line.split(None, 1)
            if tag not in _TAGS or tag in values or not value:
                return None
            values[tag] = value[0].strip("'\" ")
        elif line == "loop_":
            start = i
            while i < end and lines[i][0] == "_":
                i += 1
            names, first = lines[start:i], i
            while i < end and lines[i][0] != "_" and lines[i] != "loop_":
                i += 1
            body = lines[first:i]
            if tuple(names) in _OPERATIONS and not has_identity:
                if len(body) != 1 or not _IDENTITY.fullmatch(body[0]):
                    return None
                has_identity = True
            elif _FRACT[0] in names and sites is None:
                sites = names, [row.split() for row in body]
            elif tuple(names) != _OXIDATION:
                return None
        elif line.startswith("data_") and not has_name:
            has_name = True
        else:
            return None
    is_p1 = all(values[tag] in allowed for tag, allowed in _P1.items() if tag in values)
    is_told = has_identity or any(tag in values for tag in _P1)
    if sites is None or not (has_name and is_p1 and is_told):
        return None
    return _assemble(values, *sites)


def _assemble(values: dict[str, str], names: list[str], rows: list[list[str]]) -> Crystal | None:
    column = {name: k for k, name in enumerate(names)}
    width = len(names)
    if len(column) != width or not _COLUMNS.issuperset(names) or not column.keys() >= {*_FRACT}:
        return None
    if _SYMBOL not in column or not rows or any(len(row) != width for row in rows):
        return None
    for name in (_OCCUPANCY, _MULTIPLICITY):
        if name in column and any(row[column[name]] not in ("1", "1.0", "1.0000") for row in rows):
            return None
    if missing := [tag for tag in _CELL if tag not in values]:
        raise Refused("no cell", f"the CIF has no {missing[0]}")
    s, x, y, z = column[_SYMBOL], *(column[name] for name in _FRACT)
    try:
        frac = [(float(row[x]), float(row[y]), float(row[z])) for row in rows]
        numbers = [float(values[tag]) for tag in _CELL]
    except ValueError:  # an uncertainty in brackets, a question mark
        return None
    if not all(math.isfinite(value) for value in numbers):
        raise Refused("no cell", f"lengths and angles are {numbers}")
    atoms = [atomic_number(row[s]) for row in rows]
    _compare_formula(values, atoms)
    return from_fractional(atoms, frac, from_parameters(numbers[:3], numbers[3:]))


def _compare_formula(values: dict[str, str], atoms: list[int]) -> None:
    """A file that was cut off lacks atoms, and nothing else tells."""
    formula = values.get(_FORMULA)
    if formula is None or formula in ("?", "."):
        return
    told: dict[int, float] = {}
    for term in formula.split():
        match = _TERM.fullmatch(term)
        if match is None:
            return
        number = atomic_number(match.group(1))
        told[number] = told.get(number, 0.0) + float(match.group(2) or 1)
    found: dict[int, float] = {}
    for number in atoms:
        found[number] = found.get(number, 0.0) + 1.0
    # pymatgen writes the atoms of the cell there, the standard wants one formula unit.
    ratio = len(atoms) / sum(told.values())
    if (ratio != 1.0 and f"{ratio:g}" != values.get(_UNITS)) or any(
        abs(found.get(number, 0.0) - count * ratio) > 1e-6 for number, count in told.items()
    ):
        raise Refused("unreadable", f"its formula is {formula} and it lists {len(atoms)} atoms")


def read_by_pymatgen(text: str) -> list[Crystal]:
    """Every crystal in a CIF of any kind, by pymatgen: symmetry, oxidation states, uncertainties.

    Raises:
        Refused: if it cannot be read, or holds what is no element, or disordered sites.
        ImportError: if pymatgen is not installed.
    """
    try:
        from pymatgen.io.cif import CifFile, CifParser
    except ImportError as error:
        raise ImportError(
            "this CIF is not a plain list of atoms, and pymatgen, which reads all others, is not "
            "installed: pip install 'pyg_schnet[crystals]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for block in CifFile.from_str(text).data.values():
                # pymatgen takes the first letters that are an element: "Vac" would be vanadium.
                for symbol in block.data.get(_SYMBOL, ()):
                    if " + " not in symbol:
                        atomic_number(symbol[:1].upper() + symbol[1:].lower())
            structures = CifParser.from_str(text).parse_structures(
                primitive=False, on_error="raise"
            )
        except Refused:
            raise
        except Exception as error:  # its parser raises whatever the text leads it to
            told = str(error).splitlines()
            if "ccupanc" in str(error):
                raise Refused("occupancy disorder", told[0]) from error
            what = f"{type(error).__name__}: {told[0] if told else ''}"
            raise Refused("unreadable", what) from error
    return [from_pymatgen(structure) for structure in structures]


def _work(text: str) -> Crystal | Refused:
    try:
        return _only(read_by_pymatgen(text))
    except Refused as error:
        return Refused(error.reason, error.detail)


class CifReaders:
    """Reads CIFs by pymatgen, 1 to 10 ms each, in this process or in several others.

    The processes start when the first of many has to be read so.

    Args:
        num_workers: Number of them; 0: this one.
    """

    _FEW = 50

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None

    def read(self, texts: Sequence[str]) -> Iterator[Crystal | Refused]:
        """Crystals, or why there are none, in the order of the texts."""
        if self._num_workers == 0 or (self._pool is None and len(texts) < self._FEW):
            return map(_work, texts)
        if self._pool is None:
            # Not forked: torch's threads do not survive that.
            self._pool = ProcessPoolExecutor(
                self._num_workers, get_context("spawn"), _leave_interrupts_to_parent
            )
        return self._pool.map(_work, texts, chunksize=8)

    def close(self) -> None:
        """Ends the processes, at once after what they are reading now."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def cif_readers(num_workers: int) -> Iterator[CifReaders]:
    """:class:`CifReaders` whose processes end with the block, interrupted or not."""
    readers = CifReaders(num_workers)
    try:
        yield readers
    finally:
        readers.close()
