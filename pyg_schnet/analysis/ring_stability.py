"""Rings of six carbon atoms, ranked by what their atoms contribute to the energy; needs RDKit."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pyg_schnet.analysis.energy_partition import atom_contributions
from pyg_schnet.analysis.structure import Structure

_PANEL = 260  # pixels, of one molecule
_COLUMNS = 5
_MOST_ORDERS = 10_000  # assignments of bond orders that are tried for a drawing


@dataclass(frozen=True)
class Rings:
    """Rings from the most to the least stable.

    Attributes:
        structure: (R,) to which structure a ring belongs, as its place in the list.
        atoms: (R, 6) its atoms, numbered in their structure, along the ring.
        value: (R,) sum of the contributions of the six atoms, mean over the models; ascending.
        std: (R,) standard deviation over the models, of each less its mean over all rings, as
            models may differ by a constant of carbon; 0 of one model.
        unit: Of value and std.
    """

    structure: np.ndarray
    atoms: np.ndarray
    value: np.ndarray
    std: np.ndarray
    unit: str

    def __len__(self) -> int:
        return len(self.value)


def carbon_rings(structure: Any) -> np.ndarray:
    """Rings of six carbon atoms of a molecule.

    Which atoms are bonded is told by their distances (RDKit's ``DetermineConnectivity``); rings are
    the symmetrised smallest set of smallest rings, so that of cages such as bicyclo[2.2.2]octane no
    ring is left out for another one of its size.

    Args:
        structure: ``Data`` or ASE's ``Atoms``; a molecule.

    Returns:
        (R, 6) atoms along each ring, int64.

    Raises:
        ImportError: If RDKit is missing.
        ValueError: If the structure is periodic.

    Example:
        >>> from ase.build import molecule
        >>> carbon_rings(molecule("C6H6")).tolist() # doctest: +SKIP
        [[0, 1, 2, 3, 4, 5]]
    """
    molecule = _connected(structure)
    carbon = {atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 6}
    rings = [list(ring) for ring in _chem().GetSymmSSSR(molecule)] if len(carbon) > 5 else []
    found = [ring for ring in rings if len(ring) == 6 and carbon.issuperset(ring)]
    return np.array(found, dtype=np.int64).reshape(-1, 6)


def ring_stability(models: nn.Module | Sequence[nn.Module], structures: Iterable[Any]) -> Rings:
    r"""Rings of six carbon atoms in order of the sum of their atoms' contributions.

    .. math::
        E_\mathrm{ring} = \sum_{i \in \mathrm{ring}} e_i

    Every ring is of six atoms of one element, so constants of the elements move all rings alike and
    do not change their order. The lower the sum the more stable the ring. Schütt et al., Nat.
    Commun. 8, 13890 (2017), figure 5; thesis (TU Berlin, 2018), figure 4.14.

    Args:
        models: As :func:`~pyg_schnet.analysis.energy_partition.atom_contributions`; of several the
            mean is ranked.
        structures: Molecules, each ``Data`` or ASE's ``Atoms``.

    Returns:
        All rings, the most stable first.

    Raises:
        ImportError: If RDKit is missing.
        ValueError: If there is no ring, a structure is periodic, and as ``atom_contributions``.
    """
    owner, rings, holders = [], [], []
    for number, structure in enumerate(structures):
        found = carbon_rings(structure)
        if len(found):
            holders.append(structure)
            rings.append(found)
            owner.append(np.full(len(found), number))
    if not holders:
        raise ValueError("No structure has a ring of six carbon atoms; give some that have.")
    known = atom_contributions(models, holders)
    first = np.concatenate([[0], np.cumsum(np.bincount(known.structure))])[:-1]
    places = np.concatenate([found + start for found, start in zip(rings, first, strict=True)])
    sums = known.values[:, places].sum(axis=2)  # [M, R]
    value = sums.mean(axis=0)
    order = np.argsort(value, kind="stable")
    return Rings(
        np.concatenate(owner)[order],
        np.concatenate(rings)[order],
        value[order],
        (sums - sums.mean(axis=1, keepdims=True)).std(axis=0)[order],
        known.unit,
    )


def write_rings(found: Rings, path: str | os.PathLike[str]) -> Path:
    """Write the ranking as a table, whole or not at all.

    Args:
        found: What :func:`ring_stability` gave.
        path: A .csv file with the columns rank, structure, atoms, value and std.

    Returns:
        The file written.
    """
    lines = [f"rank,structure,atoms,value ({found.unit}),std ({found.unit})"]
    columns = zip(found.structure, found.atoms, found.value, found.std, strict=True)
    for rank, (structure, atoms, value, std) in enumerate(columns, 1):
        members = " ".join(str(atom) for atom in atoms)
        lines.append(f"{rank},{structure},{members},{value:.6f},{std:.6f}")
    return _write(path, ("\n".join(lines) + "\n").encode())


def draw_rings(
    found: Rings, structures: Sequence[Any], path: str | os.PathLike[str], count: int = 10
) -> Path:
    """Draw the molecules of the most and of the least stable rings, the rings in colour.

    Args:
        found: What :func:`ring_stability` gave.
        structures: Those it was given, as a list. Orders of bonds are those of their SMILES, where
            they have one as ``structure.smiles`` (of ``Atoms``: ``structure.info["smiles"]``) that
            fits; else they are found for a neutral molecule.
        path: Of the figure, .png or .svg.
        count: How many from each end, at most half of all.

    Returns:
        The file written.

    Raises:
        ImportError: If RDKit is missing.
        ValueError: If the suffix is another, or count is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    each = min(count, -(-len(found) // 2))
    chosen = [*range(each), *range(max(each, len(found) - each), len(found))]
    labels = [
        f"{rank + 1}: {found.value[rank]:.3f} {found.unit}, structure {found.structure[rank]}"
        for rank in chosen
    ]
    return draw_molecules(
        [structures[found.structure[rank]] for rank in chosen],
        labels,
        path,
        [found.atoms[rank].tolist() for rank in chosen],
    )


def draw_molecules(
    structures: Sequence[Any],
    labels: Sequence[str],
    path: str | os.PathLike[str],
    highlights: Sequence[Sequence[int]] | None = None,
) -> Path:
    """Draw molecules as chemists do, on a grid.

    Args:
        structures: Molecules, as :func:`draw_rings` takes them.
        labels: One for each.
        path: Of the figure, .png or .svg.
        highlights: Atoms of each that are coloured.

    Returns:
        The file written.

    Raises:
        ImportError: If RDKit is missing.
        ValueError: If the suffix is another, there is no molecule, or a structure is periodic.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"Molecules are drawn as .png or .svg, got {path.name!r}.")
    if not structures:
        raise ValueError("structures is empty; there is nothing to draw.")
    _chem()
    drawing = import_module("rdkit.Chem.Draw.rdMolDraw2D")
    molecules, coloured = [], []
    chosen = [[] for _ in structures] if highlights is None else highlights
    for structure, atoms in zip(structures, chosen, strict=True):
        molecule = _flat(structure)
        names = {atom.GetIntProp("atom"): atom.GetIdx() for atom in molecule.GetAtoms()}
        molecules.append(drawing.PrepareMolForDrawing(molecule, kekulize=False))
        coloured.append([names[atom] for atom in atoms if atom in names])
    columns = min(_COLUMNS, len(molecules))
    rows = -(-len(molecules) // columns)
    kind = drawing.MolDraw2DCairo if path.suffix.lower() == ".png" else drawing.MolDraw2DSVG
    canvas = kind(columns * _PANEL, rows * _PANEL, _PANEL, _PANEL)
    canvas.DrawMolecules(molecules, highlightAtoms=coloured, legends=list(labels))
    canvas.FinishDrawing()
    text = canvas.GetDrawingText()
    return _write(path, text.encode() if isinstance(text, str) else text)


def _chem() -> Any:
    try:
        return import_module("rdkit.Chem")
    except ImportError as error:
        raise ImportError(
            "RDKit, which finds rings and draws molecules, is missing; install it with "
            "pip install rdkit."
        ) from error


def _connected(structure: Any) -> Any:
    """The molecule as RDKit has it: atoms, positions, and bonds that are all single."""
    chem = _chem()
    given = Structure.of(structure)
    if given.cell is not None:
        raise ValueError("Rings are looked for in molecules, but the structure is periodic.")
    molecule = chem.RWMol()
    for place, number in enumerate(given.z.tolist()):
        atom = chem.Atom(number)
        atom.SetIntProp("atom", place)
        molecule.AddAtom(atom)
    places = chem.Conformer(given.z.numel())
    places.SetPositions(given.pos.double().numpy(force=True))
    molecule.AddConformer(places)
    import_module("rdkit.Chem.rdDetermineBonds").DetermineConnectivity(molecule)
    return molecule


def _flat(structure: Any) -> Any:
    """The molecule with orders of bonds and without hydrogens, in two dimensions."""
    chem = _chem()
    with import_module("rdkit.rdBase").BlockLogs():
        molecule = _with_orders(structure)
        molecule = chem.RemoveHs(molecule, sanitize=False)
        import_module("rdkit.Chem.rdDepictor").Compute2DCoords(molecule)
    return molecule


def _with_orders(structure: Any) -> Any:
    chem, molecule = _chem(), _connected(structure)
    known = getattr(structure, "smiles", None) or getattr(structure, "info", {}).get("smiles")
    drawn = chem.MolFromSmiles(known) if isinstance(known, str) else None
    if drawn is not None and _numbered(drawn, molecule):
        return drawn
    try:
        import_module("rdkit.Chem.rdDetermineBonds").DetermineBondOrders(
            molecule, charge=0, maxIterations=_MOST_ORDERS
        )
        chem.SanitizeMol(molecule)
        return molecule
    except (ValueError, RuntimeError):  # charged, a radical, or too large: all bonds stay single
        plain = _connected(structure)
        plain.UpdatePropertyCache(strict=False)
        chem.FastFindRings(plain)
        return plain


def _numbered(drawn: Any, molecule: Any) -> bool:
    """Number the atoms of a molecule of a SMILES as in the structure; False if they differ."""
    chem = _chem()
    heavy = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomicNum() > 1]
    inner = [
        bond
        for bond in molecule.GetBonds()
        if {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()} <= set(heavy)
    ]
    pattern = chem.RWMol(drawn)
    for atom in pattern.GetAtoms():
        atom.SetIsAromatic(False)
        atom.SetFormalCharge(0)
    for bond in pattern.GetBonds():
        bond.SetIsAromatic(False)
        bond.SetBondType(chem.BondType.SINGLE)
    places = molecule.GetSubstructMatch(pattern)
    if len(places) != len(heavy) or pattern.GetNumBonds() != len(inner):
        return False
    for atom, place in zip(drawn.GetAtoms(), places, strict=True):
        atom.SetIntProp("atom", molecule.GetAtomWithIdx(place).GetIntProp("atom"))
    return True


def _write(path: str | os.PathLike[str], content: bytes) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    aside.write_bytes(content)
    os.replace(aside, path)
    return path
