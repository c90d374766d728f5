import math

import pytest
import torch
from helpers import TOL, dense, randomize, ssp
from torch.testing import assert_close

from pyg_schnet.nn import Atomwise
from pyg_schnet.nn.readout import pool

Z = torch.tensor([8, 1, 1, 6, 0])
BATCH = torch.tensor([0, 0, 0, 2, 2])
ATOMREF = torch.linspace(-50.0, 0.0, 100, dtype=torch.float64)


def features(dtype=torch.float64):
    generator = torch.Generator().manual_seed(6)
    return torch.randn(5, 6, generator=generator, dtype=torch.float64).to(dtype)


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
        ({"readout": ["add", "max"], "out_channels": 2}, "readout must be 'add'.*got 'max'"),
        (
            {"readout": ["add", "mean"], "out_channels": 3},
            "one for each of the 3 properties",
        ),
        ({"mean": torch.zeros(2)}, r"mean must be one number, or one for each of the 1.*\(2,\)"),
        ({"std": torch.tensor([1.0, -1.0]), "out_channels": 2}, r"std must be.*got \[1.0, -1.0\]"),
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


def test_derivatives_of_the_head():
    head = Atomwise(6, 2, std=torch.tensor([2.0, 0.5]), readout=["mean", "add"]).double()
    randomize(head)
    x = features().requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda x: head(x, Z, BATCH, 3), x)


def test_each_property_has_constants_and_a_pooling_of_its_own(dtype):
    mean, std = torch.tensor([-3.25, 7.5]), torch.tensor([1.7, 0.2])
    table = torch.stack([ATOMREF, ATOMREF.square()], dim=1)
    both = Atomwise(6, 2, readout=["sum", "mean"], mean=mean, std=std, atomref=table).to(dtype)
    randomize(both)
    assert both.readout == ("add", "mean")
    x = features(dtype)
    for c, readout in enumerate(both.readout):
        one = Atomwise(6, readout=readout, mean=mean[c], std=std[c], atomref=table[:, c]).to(dtype)
        one.lin1.load_state_dict(both.lin1.state_dict())
        with torch.no_grad():
            one.lin2.weight.copy_(both.lin2.weight[c : c + 1])
            one.lin2.bias.copy_(both.lin2.bias[c : c + 1])
        assert_close(both(x, Z, BATCH, 4)[:, c : c + 1], one(x, Z, BATCH, 4), **TOL[dtype])


def test_the_same_word_for_all_properties_is_one_word():
    assert Atomwise(6, 2, readout=["mean", "mean"]).readout == "mean"
    assert Atomwise(6, 2, readout="sum").readout == "add"
