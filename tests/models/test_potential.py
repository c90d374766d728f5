import pytest
import torch
from helpers import TOL, methanol, small_schnet, water
from torch import nn
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential

F64 = TOL[torch.float64]


class Spring(nn.Module):
    """An energy known on paper: k/2 times the sum over pairs of (d - 1)²."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(
        self,
        z,
        pos,
        batch=None,
        edge_index=None,
        cell=None,
        cell_shift=None,
        pbc=None,
        *,
        num_graphs=None,
        dtype=None,
    ):
        d = torch.pdist(pos)
        return (0.5 * self.k * (d - 1.0).square().sum()).view(1, 1)


def test_forces_match_the_formula_in_its_docstring():
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]]).double()
    result = Potential(Spring(3.0))(Data(z=torch.tensor([1, 1]), pos=pos))
    assert_close(result["energy"], torch.tensor([0.375]).double())
    want = torch.tensor([[1.5, 0.0, 0.0], [-1.5, 0.0, 0.0]]).double()
    assert_close(result["forces"], want)


def test_stress_matches_the_formula_in_its_docstring():
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]]).double()
    cell = torch.diag(torch.tensor([10.0, 4.0, 5.0])).double()[None]
    result = Potential(Spring(3.0), stress=True)(Data(z=torch.tensor([1, 1]), pos=pos, cell=cell))
    want = torch.zeros(1, 3, 3).double()
    want[0, 0, 0] = 3.0 * 0.5 * 1.5 / 200.0  # dE/dd times dd/dstrain, positive under tension
    assert_close(result["stress"], want, **F64)


class Field(Spring):
    """An energy with a direction: a field along x pulls at the first atom."""

    def forward(self, z, pos, *_, **__):
        return (self.k * pos[0, 0]).view(1, 1)


def test_stress_is_symmetric_even_where_the_energy_sees_a_rotation():
    pos = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]).double()
    cell = 2.0 * torch.eye(3).double()[None]
    result = Potential(Field(4.0), stress=True)(Data(z=torch.tensor([1, 1]), pos=pos, cell=cell))
    want = torch.tensor([[[4.0, 6.0, 0.0], [6.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]).double() / 8.0
    assert_close(result["stress"], want, **F64)


def test_results_have_the_stated_shapes_and_dtypes(dtype):
    batch = Batch.from_data_list([water(dtype), methanol(dtype)])
    result = Potential(small_schnet(dtype)).eval()(batch)
    assert list(result) == ["energy", "forces"]
    assert result["energy"].shape == (2,) and result["energy"].dtype == torch.float64
    assert result["forces"].shape == (9, 3) and result["forces"].dtype == dtype


def test_forces_can_be_left_out(ch3oh, crystal):
    model = small_schnet()
    assert list(Potential(model, forces=False)(ch3oh)) == ["energy"]
    only_stress = Potential(model, forces=False, stress=True)(crystal)
    assert list(only_stress) == ["energy", "stress"]
    assert_close(only_stress["stress"], Potential(model, stress=True)(crystal)["stress"], **F64)


@pytest.mark.parametrize("shape", [(3, 3), (1, 3, 3)])
def test_cell_of_one_structure_may_have_either_shape(shape, crystal):
    pot = Potential(small_schnet(), stress=True).eval()
    want = pot(crystal)
    data = crystal.clone()
    data.cell = data.cell.view(shape)
    for name, value in pot(data).items():
        assert_close(value, want[name], **F64)


def test_data_is_not_changed(crystal):
    before = crystal.clone()
    Potential(small_schnet(), stress=True)(crystal)
    assert crystal.keys() == before.keys()
    assert not crystal.pos.requires_grad
    for name in before.keys():  # noqa: SIM118
        assert torch.equal(crystal[name], before[name])


def test_results_are_detached_in_evaluation_and_not_in_training(ch3oh):
    pot = Potential(small_schnet())
    for value in pot.eval()(ch3oh).values():
        assert not value.requires_grad
    for value in pot.train()(ch3oh).values():
        assert value.requires_grad
    ch3oh.pos.requires_grad_(True)
    for value in pot.eval()(ch3oh).values():
        assert value.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
def test_forces_come_where_gradients_are_switched_off(mode, training, crystal):
    pot = Potential(small_schnet(), stress=True).train(training)
    want = {name: value.detach() for name, value in pot(crystal).items()}
    with mode():
        made_inside = crystal.clone()
        for data in (crystal, made_inside):
            for name, value in pot(data).items():
                assert_close(value, want[name], **F64)
                assert not value.requires_grad


def test_hessian_is_the_derivative_of_the_forces(h2o):
    pot = Potential(small_schnet()).eval()

    def forces(pos):
        return pot(Data(z=h2o.z, pos=pos))["forces"]

    hessian = torch.autograd.functional.jacobian(forces, h2o.pos).view(9, 9)
    assert_close(hessian, hessian.T, **F64)
    pos = h2o.pos.clone()
    pos[1, 2] += 1e-5
    high = forces(pos)
    pos[1, 2] -= 2e-5
    slope = (high - forces(pos)) / 2e-5
    assert_close(hessian[:, 5], slope.view(-1), rtol=1e-5, atol=1e-7)


def test_training_on_forces_brings_them_to_their_targets(ch3oh):
    torch.manual_seed(0)
    pot = Potential(small_schnet()).train()
    target = 0.1 * torch.randn(6, 3).double()
    target -= target.mean(0)
    optimizer, losses = torch.optim.Adam(pot.parameters(), lr=1e-2), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (pot(ch3oh)["forces"] - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_stress_can_be_trained_on(crystal):
    pot = Potential(small_schnet(), stress=True).train()
    pot(crystal)["stress"].square().sum().backward()
    assert pot.model.interactions[0].conv.nn[0].weight.grad.any()


def test_parameters_get_no_gradient_from_the_search_for_forces(ch3oh):
    pot = Potential(small_schnet())
    pot(ch3oh)
    assert all(parameter.grad is None for parameter in pot.parameters())


def test_stress_without_a_cell_is_refused(h2o):
    with pytest.raises(ValueError, match="stress needs a periodic structure"):
        Potential(small_schnet(), stress=True)(h2o)


def test_a_dipole_is_no_energy():
    with pytest.raises(ValueError, match="needs an energy model"):
        Potential(small_schnet(dipole=True))


def test_energy_of_a_constant_model_has_zero_forces(h2o):
    pot = Potential(small_schnet(num_interactions=0)).eval()
    assert not pot(h2o)["forces"].any()
