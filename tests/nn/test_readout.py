import math

import pytest
import torch
from ase.data import atomic_masses
from helpers import TOL, dense, randomize, rotation, ssp
from torch.testing import assert_close

from pyg_schnet.nn import Atomwise, Dipole
from pyg_schnet.nn.readout import pool

Z = torch.tensor([8, 1, 1, 6, 0])
BATCH = torch.tensor([0, 0, 0, 2, 2])
ATOMREF = torch.linspace(-50.0, 0.0, 100, dtype=torch.float64)


def features(dtype=torch.float64):
    generator = torch.Generator().manual_seed(6)
    return torch.randn(5, 6, generator=generator, dtype=torch.float64).to(dtype)


def positions(dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)


def slow_head(head, x):
    return [dense(head.lin2, [ssp(v) for v in dense(head.lin1, row)]) for row in x.tolist()]


@pytest.mark.parametrize("readout", ["add", "sum", "mean"])
@pytest.mark.parametrize("out_channels", [1, 2])
def test_atomwise_matches_the_formula_in_its_docstring(readout, out_channels, dtype):
    table = torch.stack([ATOMREF, ATOMREF.square()], dim=1)[:, :out_channels]
    head = Atomwise(6, out_channels, readout=readout, mean=-3.25, std=1.7, atomref=table)
    head = head.to(dtype)
    randomize(head)
    with torch.no_grad():
        head.scale.fill_(0.5)
    x = features(dtype)
    network = slow_head(head, x)
    want = torch.zeros(3, out_channels, dtype=torch.float64)
    for molecule in range(3):
        atoms = [i for i in range(5) if BATCH[i] == molecule]
        for c in range(out_channels):
            e = [1.7 * network[i][c] - 3.25 + float(table[Z[i], c]) for i in atoms]
            total = sum(e)
            if readout == "mean" and atoms:
                total /= len(atoms)
            want[molecule, c] = 0.5 * total
    assert_close(head(x, Z, BATCH, 3), want.to(dtype), **TOL[dtype])
    assert_close(head(x, Z, BATCH, 3, torch.float64), want, **TOL[dtype])


def test_contributions_are_the_terms_of_the_sum():
    head = Atomwise(6, mean=2.0, std=3.0, atomref=ATOMREF).double()
    x = features()
    e = head.contributions(x, Z)
    assert_close(e, head.learned(x) + head.constant(Z))
    assert_close(pool(e, BATCH, 3, "add"), head(x, Z, BATCH, 3))


def test_float32_model_keeps_what_float32_cannot_hold_of_a_total_energy():
    head = Atomwise(6, mean=-2000.0, std=1.0)
    x = features(torch.float32)[:1]
    z, batch = torch.tensor([8]), torch.tensor([0])
    learned = float(head.learned(x).detach())
    exact = head(x, z, batch, 1, torch.float64).detach()
    assert exact.dtype == torch.float64
    assert float(exact) == learned - 2000.0
    assert head(x, z, batch, 1).dtype == torch.float32


def test_empty_molecules_give_zero():
    head = Atomwise(6, readout="mean", mean=5.0)
    out = head(features(torch.float32), Z, BATCH, 5)
    assert not out[[1, 3, 4]].any()
    assert out[[0, 2]].all()


def test_pool_matches_loops(dtype):
    values = features(dtype)
    want_sum = [[0.0] * 6 for _ in range(3)]
    for i, row in enumerate(values.tolist()):
        for c, value in enumerate(row):
            want_sum[BATCH[i]][c] += value
    counts = [3, 1, 2]
    want_mean = [[v / n for v in row] for row, n in zip(want_sum, counts, strict=True)]
    assert_close(pool(values, BATCH, 3, "add"), torch.tensor(want_sum, dtype=dtype), **TOL[dtype])
    assert_close(pool(values, BATCH, 3, "mean"), torch.tensor(want_mean, dtype=dtype), **TOL[dtype])


def test_statistics_can_be_set_apart():
    head = Atomwise(6)
    head.set_statistics(std=2.0)
    head.set_statistics(mean=torch.tensor(1.5))
    head.set_statistics(atomref=ATOMREF.view(100, 1))
    assert (float(head.mean), float(head.std)) == (1.5, 2.0)
    assert torch.equal(head.atomref[:, 0], ATOMREF)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"readout": "max"}, "readout must be 'add'.*got 'max'"),
        ({"std": 0.0}, "std must be positive, got 0.0"),
        ({"std": math.nan}, "std must be positive"),
        ({"atomref": torch.zeros(10)}, r"atomref must have shape \(100, 1\).*got \(10,\)"),
    ],
)
def test_atomwise_refuses_constants_that_make_no_sense(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Atomwise(6, **options)


def test_reset_keeps_the_constants():
    head = Atomwise(6, mean=2.0, std=3.0, atomref=ATOMREF)
    randomize(head)
    head.reset_parameters()
    assert (float(head.mean), float(head.std)) == (2.0, 3.0)
    assert torch.equal(head.atomref[:, 0], ATOMREF)
    assert not head.lin1.bias.any() and not head.lin2.bias.any()


@pytest.mark.parametrize("magnitude", [True, False])
def test_dipole_matches_the_formula_in_its_docstring(magnitude, dtype):
    head = Dipole(6, magnitude=magnitude).to(dtype)
    randomize(head)
    with torch.no_grad():
        head.scale.fill_(0.25)
    x, pos = features(dtype), positions(dtype)
    charge = [row[0] for row in slow_head(head, x)]
    want = torch.zeros(3, 3, dtype=torch.float64)
    for molecule in range(3):
        atoms = [i for i in range(5) if BATCH[i] == molecule]
        mass = sum(atomic_masses[Z[i]] for i in atoms)
        for axis in range(3):
            centre = sum(atomic_masses[Z[i]] * float(pos[i, axis]) / mass for i in atoms)
            want[molecule, axis] = 0.25 * sum(
                charge[i] * (float(pos[i, axis]) - centre) for i in atoms
            )
    if magnitude:
        want = want.square().sum(dim=1, keepdim=True).sqrt()
    assert_close(head(x, Z, BATCH, 3, pos), want.to(dtype), **TOL[dtype])


def test_dipole_does_not_depend_on_the_origin_and_turns_with_the_molecule():
    head, x, pos = Dipole(6, magnitude=False).double(), features(), positions()
    randomize(head)
    turn = rotation(3)
    moved = pos @ turn.T + torch.tensor([5.0, -7.0, 1.0], dtype=torch.float64)
    assert_close(head(x, Z, BATCH, 3, moved), head(x, Z, BATCH, 3, pos) @ turn.T, **TOL[pos.dtype])


def test_derivatives_of_the_heads():
    x, pos = features().requires_grad_(True), positions().requires_grad_(True)
    energy, dipole = Atomwise(6, std=2.0).double(), Dipole(6, magnitude=False).double()
    for head in (energy, dipole):
        randomize(head)
    assert torch.autograd.gradgradcheck(lambda x: energy(x, Z, BATCH, 3), x)
    assert torch.autograd.gradgradcheck(lambda x, pos: dipole(x, Z, BATCH, 3, pos), (x, pos))
