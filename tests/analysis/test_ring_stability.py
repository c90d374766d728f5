import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from helpers import small_schnet
from torch_geometric.data import Data

from pyg_schnet.analysis import ring_stability as rings_module
from pyg_schnet.analysis.commands import parsers, run
from pyg_schnet.analysis.ring_stability import (
    carbon_rings,
    draw_molecules,
    draw_rings,
    ring_stability,
    write_rings,
)

try:
    import rdkit  # noqa: F401
except ImportError:
    rdkit = None
needs_rdkit = pytest.mark.skipif(rdkit is None, reason="RDKit is not installed")

SMILES = {
    "naphthalene": "c1ccc2ccccc2c1",
    "cyclohexane": "C1CCCCC1",
    "toluene": "Cc1ccccc1",
    "barrelane": "C1CC2CCC1CC2",
}


def embedded(name):
    """A molecule in three dimensions by RDKit's force field."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    found = Chem.AddHs(Chem.MolFromSmiles(SMILES[name]))
    AllChem.EmbedMolecule(found, randomSeed=7)
    AllChem.MMFFOptimizeMolecule(found)
    z = [atom.GetAtomicNum() for atom in found.GetAtoms()]
    return Atoms(z, found.GetConformer().GetPositions(), info={"smiles": SMILES[name]})


def rings_by_hand(atoms):
    """All cycles of six carbon atoms, by walking along bonds shorter than 1.7 Å."""
    near = atoms.get_all_distances() < 1.7
    np.fill_diagonal(near, False)
    carbon = [k for k, number in enumerate(atoms.numbers) if number == 6]
    paths = [[k] for k in carbon]
    for _ in range(5):
        paths = [
            [*p, k] for p in paths for k in carbon if near[p[-1], k] and k not in p and k > p[0]
        ]
    return {frozenset(p) for p in paths if near[p[-1], p[0]]}


@needs_rdkit
@pytest.mark.parametrize("name, count", [*zip(SMILES, (2, 1, 1, 3)), ("C6H6", 1), ("C5H5N", 0)])
def test_rings_are_those_found_by_walking_along_bonds(name, count):
    atoms = embedded(name) if name in SMILES else molecule(name)
    order = np.random.default_rng(3).permutation(len(atoms))
    atoms = atoms[order]
    found = carbon_rings(atoms)
    assert found.shape == (count, 6)
    assert {frozenset(ring) for ring in found.tolist()} == rings_by_hand(atoms)
    distances = atoms.get_all_distances()
    for ring in found:
        assert all(distances[a, b] < 1.7 for a, b in zip(ring, np.roll(ring, 1)))


@needs_rdkit
def test_values_are_sums_of_the_six_atoms_in_order():
    model = small_schnet()
    structures = [molecule("H2O"), embedded("toluene"), molecule("C6H6"), embedded("naphthalene")]
    found = ring_stability(model, structures)
    wanted = []
    for number, atoms in enumerate(structures):
        z, pos = torch.as_tensor(atoms.numbers), torch.as_tensor(atoms.positions)
        values = model.atomwise(z, pos)[:, 0].detach().numpy()
        wanted += [(values[list(r)].sum(), number, r) for r in map(sorted, rings_by_hand(atoms))]
    wanted.sort()
    np.testing.assert_allclose(found.value, [value for value, _, _ in wanted], rtol=1e-10)
    got = [(s, sorted(a)) for s, a in zip(found.structure.tolist(), found.atoms.tolist())]
    # Both rings of naphthalene have the same energy but for rounding.
    assert sorted(got) == sorted((s, r) for _, s, r in wanted)
    assert len(found) == 4 and (found.std == 0.0).all() and (np.diff(found.value) >= 0).all()


@needs_rdkit
def test_of_several_models_the_mean_is_ranked():
    models = [small_schnet(seed=k) for k in (1, 2, 3)]
    structures = [embedded("toluene"), molecule("C6H6"), embedded("cyclohexane")]
    found = ring_stability(models, structures)
    alone = [ring_stability(model, structures) for model in models]
    for place, structure in enumerate(found.structure):
        values = [float(one.value[one.structure == structure][0]) for one in alone]
        less = [value - one.value.mean() for value, one in zip(values, alone)]
        assert found.value[place] == pytest.approx(np.mean(values))
        assert found.std[place] == pytest.approx(np.std(less)) and found.std[place] > 0.0


@needs_rdkit
def test_rings_are_drawn_and_listed(tmp_path):
    structures = [embedded(name) for name in SMILES] + [molecule("C6H6")]
    plain = Data(
        z=torch.as_tensor(structures[0].numbers), pos=torch.as_tensor(structures[0].positions)
    )
    structures.append(plain)
    found = ring_stability(small_schnet(), structures)
    assert len(found) == 10
    png = draw_rings(found, structures, tmp_path / "a.png", 3)
    assert png.read_bytes()[:4] == b"\x89PNG"
    svg = draw_rings(found, structures, tmp_path / "a.svg").read_text()
    assert svg.count("<svg") == 1 and f"width='{5 * rings_module._PANEL}px'" in svg
    assert f"height='{2 * rings_module._PANEL}px'" in svg  # each ring once
    lines = write_rings(found, tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].startswith("rank,structure,atoms,value (eV)") and len(lines) == 11
    rank, structure, atoms, value, _ = lines[4].split(",")
    assert (int(rank), int(structure)) == (4, found.structure[3])
    assert [int(atom) for atom in atoms.split()] == found.atoms[3].tolist()
    assert float(value) == pytest.approx(found.value[3], abs=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.svg", "a.csv"}


@needs_rdkit
@pytest.mark.parametrize("known", ["c1ccccc1", None, "CCO", "not a molecule"])
def test_orders_of_bonds_are_those_of_the_smiles_or_of_the_geometry(known):
    from rdkit import Chem

    atoms = molecule("C6H6")
    atoms.info["smiles"] = known
    drawn = rings_module._flat(atoms)
    assert Chem.MolToSmiles(drawn) == "c1ccccc1"
    assert sorted(atom.GetIntProp("atom") for atom in drawn.GetAtoms()) == list(range(6))


@needs_rdkit
def test_what_has_no_neutral_bonds_is_drawn_with_single_ones(tmp_path):
    radical = molecule("C6H6")[:-1]
    drawn = rings_module._flat(radical)
    assert drawn.GetNumAtoms() == 6
    assert draw_molecules([radical], ["a"], tmp_path / "a.svg").is_file()


@needs_rdkit
def test_what_cannot_be_is_told(tmp_path):
    with pytest.raises(ValueError, match="No structure has a ring"):
        ring_stability(small_schnet(), [molecule("H2O")])
    with pytest.raises(ValueError, match="periodic"):
        carbon_rings(bulk("C", "diamond", 3.57))
    with pytest.raises(ValueError, match=".png or .svg"):
        draw_molecules([molecule("H2O")], ["a"], tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_molecules([], [], tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least 1"):
        draw_rings(ring_stability(small_schnet(), [molecule("C6H6")]), [], "a.png", 0)


def test_without_rdkit_the_way_to_install_it_is_told(monkeypatch):
    for name in ("rdkit", "rdkit.Chem"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install rdkit"):
        carbon_rings(molecule("C6H6"))


@needs_rdkit
def test_it_is_a_command_with_a_figure_and_a_table(tmp_path):
    pytest.importorskip("jsonargparse")
    words = ["--model", "md17-benzene", "--structure", "C6H6", "--out", f"{tmp_path}/a.svg"]
    options = parsers()["ring-stability"].parse_args(words)
    assert run("ring-stability", options, None) == [tmp_path / "a.svg", tmp_path / "a.csv"]
    line = (tmp_path / "a.csv").read_text().splitlines()[1]
    assert line.startswith("1,0,0 1 2 3 4 5,")
