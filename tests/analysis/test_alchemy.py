import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from helpers import rotation, small_schnet

from pyg_schnet import DTNN, pretrained
from pyg_schnet.analysis.alchemy import (
    Transformation,
    alchemical_path,
    plot_paths,
    substitute,
    with_end,
)

ATOMREF = torch.linspace(-3.0, 3.0, 100, dtype=torch.float64)
MODELS = {
    "schnet": lambda: small_schnet(mean=-2.0, std=1.5, atomref=ATOMREF),
    "mean": lambda: small_schnet(readout="mean"),
    "dtnn": lambda: DTNN(8, 9, 2, 12, 10.0, seed=0, mean=-1.0).double(),
}
SITES = {"pyridine": [0], "pyrazine": [0, 3], "s-triazine": [0, 2, 4]}


def energy(model, structure):
    return float(model(structure.z, structure.pos, dtype=torch.float64).detach())


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("name", SITES)
def test_the_ends_are_the_molecules(case, name):
    model, change = MODELS[case](), substitute(molecule("C6H6"), SITES[name])
    formulas = {"pyridine": "C5H5N", "pyrazine": "C4H4N2", "s-triazine": "C3H3N3"}
    end = change.end()
    made = Atoms(end.z.numpy(), end.pos.numpy())
    assert sorted(made.symbols) == sorted(Atoms(formulas[name]).symbols)
    if len(SITES[name]) == 2:  # opposite ones
        assert np.linalg.norm(np.diff(change.pos[SITES[name]], axis=0)) == pytest.approx(
            2.79, abs=0.02
        )
    path = alchemical_path(model, change, 5)
    assert path.fraction.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert path.energy[0] == pytest.approx(energy(model, change.start()), rel=1e-12)
    assert path.energy[-1] == pytest.approx(energy(model, end), rel=1e-12)
    assert (path.contributions[-1, change.other == 0] == 0.0).all()
    if case != "mean":
        np.testing.assert_allclose(path.contributions.sum(1), path.energy, rtol=1e-10)
    np.testing.assert_allclose(path.bend[[0, -1]], 0.0, atol=1e-9)
    assert np.abs(path.bend).max() > 1e-3


def test_both_ends_of_an_interpolated_path_have_their_own_positions():
    model = small_schnet()
    change = with_end(substitute(molecule("C6H6"), [0]), molecule("C5H5N"))
    path = alchemical_path(model, change, np.array([0.0, 0.5, 1.0]), positions="interpolated")
    pyridine = molecule("C5H5N")
    own = energy(model, Transformation(*[pyridine.numbers] * 2, *[pyridine.positions] * 2).start())
    assert path.energy[-1] == pytest.approx(own, rel=1e-10)
    np.testing.assert_allclose(path.pos[1], 0.5 * (change.pos + change.other_pos))
    fixed = alchemical_path(model, change, 3)
    assert fixed.energy[0] == path.energy[0] and abs(fixed.energy[-1] - own) > 1e-6
    np.testing.assert_array_equal(fixed.pos[2], change.pos)


@pytest.mark.parametrize("sites", SITES.values(), ids=SITES)
def test_molecules_are_laid_onto_each_other_however_they_are_turned(sites):
    """A known answer: the end itself, a little distorted, turned, shifted and shuffled."""
    change = substitute(molecule("C6H6"), sites)
    end = change.end()
    generator = np.random.default_rng(5)
    for seed in range(4):
        order = generator.permutation(len(end.z))
        pos = end.pos.numpy() + 0.03 * generator.normal(size=(len(end.z), 3))
        turned = pos @ rotation(seed).numpy().T + generator.normal(size=3)
        found = with_end(change, Atoms(end.z.numpy()[order], turned[order]))
        there = change.other > 0
        moved = np.linalg.norm(found.other_pos - change.pos, axis=1)
        assert moved[there].max() < 0.15 and (moved[~there] == 0.0).all()
        d = np.linalg.norm(pos[:, None] - pos, axis=2)
        laid = found.other_pos[there]
        assert np.sort(np.linalg.norm(laid[:, None] - laid, axis=2).ravel()) == pytest.approx(
            np.sort(d.ravel())
        )


def test_a_mirror_image_is_not_laid_onto_its_original():
    pos = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.4, 0], [0, 0, 1.8], [-1.0, -1.0, -0.9]])
    z = np.array([6, 1, 9, 17, 35])
    change = Transformation(z, z.copy(), pos, pos.copy())
    same = with_end(change, Atoms(z, pos @ rotation(3).numpy().T))
    np.testing.assert_allclose(same.other_pos, pos, atol=1e-9)
    mirrored = with_end(change, Atoms(z, pos * [-1, 1, 1]))
    assert np.linalg.norm(mirrored.other_pos - pos, axis=1).max() > 0.3


# QM9's own geometries, planar: element, Å from the middle, degrees; and U0 in eV.
AZINES = {
    "benzene": ([("C", 1.3934, 60 * k) for k in range(6)]
                + [("H", 2.4786, 60 * k) for k in range(6)],
                -6317.5202),
    "pyrazine": ([("N", 1.4052, 0), ("N", 1.4052, 180)]
                 + [("C", 1.3282, a) for a in (58.36, 121.64, 238.36, 301.64)]
                 + [("H", 2.4153, a) for a in (58.72, 121.28, 238.72, 301.28)],
                 -7190.7615),
    "s-triazine": ([("N", 1.3724, 120 * k) for k in range(3)]
                   + [("C", 1.2915, 120 * k + 60) for k in range(3)]
                   + [("H", 2.3793, 120 * k + 60) for k in range(3)],
                   -7627.7346),
}  # fmt: skip


def azine(name):
    symbols, r, angle = zip(*AZINES[name][0])
    r, angle = np.array(r), np.radians(angle)
    return Atoms(symbols, np.stack([r * np.cos(angle), r * np.sin(angle), 0 * r], axis=1))


@pytest.mark.parametrize("name", ["pyrazine", "s-triazine"])
def test_pathways_by_the_model_of_qm9_end_at_the_energies_of_qm9(name):
    """Both ends within 0.1 eV of B3LYP/6-31G(2df,p): the model's own error is 0.03 eV."""
    model, benzene = pretrained("qm9-U0"), azine("benzene")
    change = with_end(substitute(benzene, SITES[name]), azine(name))
    path = alchemical_path(model, change, 11, positions="interpolated")
    assert path.energy[0] == pytest.approx(AZINES["benzene"][1], abs=0.1)
    assert path.energy[-1] == pytest.approx(AZINES[name][1], abs=0.1)
    for end, energy_there in (("benzene", path.energy[0]), (name, path.energy[-1])):
        z, pos = azine(end).numbers, torch.tensor(azine(end).positions).float()
        own = model(torch.tensor(z), pos, dtype=torch.float64)
        assert energy_there == pytest.approx(float(own.detach()), abs=2e-3)
    assert np.abs(path.bend).max() < 2.0
    # With benzene's positions the end is no longer the molecule as it is at rest.
    fixed = alchemical_path(model, change, 3)
    assert fixed.energy[0] == path.energy[0] and fixed.energy[-1] > path.energy[-1] + 0.5


def test_an_atom_can_appear_too():
    """From N2 to NNH and backwards: the same energies in the other order."""
    model = small_schnet(atomref=ATOMREF)
    pos = np.array([[0.0, 0, 0], [0, 0, 1.1], [0, 0.9, -0.5]])
    there = Transformation(np.array([7, 7, 0]), np.array([7, 7, 1]), pos, pos)
    back = Transformation(there.other, there.z, pos, pos)
    forth = alchemical_path(model, there, 4).energy
    np.testing.assert_allclose(alchemical_path(model, back, 4).energy[::-1], forth, rtol=1e-12)
    assert forth[0] == pytest.approx(energy(model, there.start()), rel=1e-12)


def test_pictures_are_drawn_and_mistakes_named(tmp_path):
    model, benzene = small_schnet(), molecule("C6H6")
    change = substitute(benzene, [0])
    paths = {name: alchemical_path(model, substitute(benzene, s), 4) for name, s in SITES.items()}
    assert plot_paths(paths, tmp_path / "a.png").stat().st_size > 5000
    for wrong, word in (
        (lambda: plot_paths({}, tmp_path / "b.png"), "empty"),
        (lambda: substitute(benzene, [12]), "atoms, 0..11"),
        (lambda: substitute(molecule("CH4"), [0]), "has 4 within"),
        (lambda: substitute(bulk("NaCl", "rocksalt", 5.64), [0]), "repeats"),
        (lambda: with_end(change, benzene), "elements"),
        (lambda: alchemical_path(model, change, positions="free"), "'fixed' or"),
        (lambda: alchemical_path(model, change, np.array([0.0, math.nan])), "rise"),
        (lambda: alchemical_path(model, change, np.array([0.5, 0.2])), "rise"),
        (lambda: alchemical_path(model, change, np.array([0.0, 1.2])), "rise"),
        (lambda: alchemical_path(small_schnet(head="softmax"), change), "atomwise"),
        (lambda: alchemical_path(small_schnet(normalize="neighbors"), change), "normalize"),
    ):
        with pytest.raises(ValueError, match=word):
            wrong()
