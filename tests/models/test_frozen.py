import copy
import sys
import threading

import pytest
import torch
from helpers import (
    all_pairs,
    finite_difference,
    methanol,
    random_molecule,
    skewed_crystal,
    small_schnet,
    water,
)
from torch import nn
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential, SchNet
from pyg_schnet.models import frozen as frozen_module
from pyg_schnet.models.frozen import FrozenPotential

pytest.importorskip("numba")


def exact(model: SchNet, data: Data, stress: bool = False) -> dict[str, torch.Tensor]:
    """What autograd finds with the filter network on each edge."""
    model = copy.deepcopy(model)
    model.filters = "exact"
    return Potential(model, stress=stress).eval()(data)


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    """Energies to 1e-8, forces to 1e-7 of the largest; float32: to 1e-6 and 2e-5."""
    assert got.keys() == want.keys()
    single = want["forces"].dtype == torch.float32
    # Energies of float32 may cancel: 2e-6 eV is 1e-6 of the sum of their atoms' magnitudes.
    energy = {"rtol": 1e-6, "atol": 2e-6} if single else {"rtol": 1e-8, "atol": 1e-10}
    assert_close(got["energy"], want["energy"], **energy)
    for name in want.keys() - {"energy"}:
        largest = float(want[name].abs().max()) if want[name].numel() else 0.0
        assert_close(got[name], want[name], rtol=0.0, atol=(2e-5 if single else 1e-7) * largest)


OPTIONS = {
    "cosine": {},
    "hard": {"cutoff_fn": "hard"},
    "none": {"cutoff_fn": "none", "cutoff": 2.0},
    "ssp": {"filter_activation": "ssp"},
    "shared filters": {"shared_filters": True},
    "normalize": {"normalize": "neighbors"},
    "normalize, hard": {"normalize": "neighbors", "cutoff_fn": "hard", "cutoff": 2.5},
    "mean": {"readout": "mean"},
    "constants": {"mean": -76.1, "std": 10.3, "atomref": -(torch.arange(100.0) ** 2)},
    "gamma": {"gamma": 10.0},
    "one vector": {"hidden_channels": 16, "num_filters": 16},
    "five vectors": {"hidden_channels": 80, "num_filters": 112, "num_interactions": 3},
    "one interaction": {"num_interactions": 1},
    "no interaction": {"num_interactions": 0},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_it_gives_what_autograd_gives(dtype, option):
    model = small_schnet(dtype, **OPTIONS[option])
    frozen = FrozenPotential(model)
    for data in (methanol(dtype), random_molecule(11, 3, dtype)):
        assert_same(frozen(data), exact(model, data))


@pytest.mark.parametrize("option", ["cosine", "hard", "none", "normalize", "mean"])
def test_a_crystal_with_stress(dtype, option):
    model = small_schnet(dtype, **{**OPTIONS[option], "cutoff": 4.0})
    data = skewed_crystal(dtype)
    got = FrozenPotential(model, stress=True)(data)
    assert got["stress"].shape == (1, 3, 3)
    assert_same(got, exact(model, data, stress=True))


def test_more_atoms_than_pass_together(dtype):
    model = small_schnet(dtype)
    data = Batch.from_data_list([random_molecule(n, n, dtype) for n in (75, 1, 33)])
    assert_same(FrozenPotential(model)(data), exact(model, data))


def test_a_batch_of_crystals_has_each_its_stress(dtype):
    model = small_schnet(dtype)
    other = skewed_crystal(dtype)
    other.cell, other.pos = 1.1 * other.cell, 1.1 * other.pos
    data = Batch.from_data_list([skewed_crystal(dtype), other])
    assert_same(FrozenPotential(model, stress=True)(data), exact(model, data, stress=True))


def test_batches_with_lone_atoms_and_empty_molecules(dtype):
    model = small_schnet(dtype, mean=-3.0)
    lone = Data(z=torch.tensor([7]), pos=torch.zeros(1, 3, dtype=dtype))
    none = Data(z=torch.zeros(0, dtype=torch.long), pos=torch.zeros(0, 3, dtype=dtype))
    parts = [water(dtype), none, lone, methanol(dtype), none]
    data = Batch.from_data_list(parts)
    got = FrozenPotential(model)(data)
    assert_same(got, exact(model, data))
    assert got["energy"].shape == (5,)
    assert got["energy"][1] == 0 and got["energy"][4] == 0


def test_one_object_serves_changing_structures(dtype):
    model = small_schnet(dtype)
    frozen = FrozenPotential(model)
    batch = Batch.from_data_list([methanol(dtype), water(dtype)])
    for data in (water(dtype), random_molecule(30, 1, dtype), batch, water(dtype)):
        assert_same(frozen(data), exact(model, data))
    swapped = water(dtype)
    swapped.z = torch.tensor([8, 9, 1])
    assert_same(frozen(swapped), exact(model, swapped))


def test_atoms_of_molecules_may_be_mixed(dtype):
    model = small_schnet(dtype, readout="mean")
    data = random_molecule(9, 5, dtype)
    data.batch = torch.tensor([1, 0, 1, 1, 0, 2, 2, 1, 0])
    assert_same(FrozenPotential(model)(data), exact(model, data))


@pytest.mark.parametrize("option", ["cosine", "none", "normalize"])
def test_given_edges_are_used_as_they_are(dtype, option):
    model = small_schnet(dtype, **{**OPTIONS[option], "cutoff": 2.5})
    data = methanol(dtype)
    edges = all_pairs(6)
    order = torch.randperm(edges.size(1), generator=torch.Generator().manual_seed(0))
    for kept in (order, order[:17]):  # the second without the reverses of some
        data.edge_index = edges[:, kept]
        frozen = FrozenPotential(model)
        assert_same(frozen(data), exact(model, data))
        assert frozen.searches == 0


@pytest.mark.parametrize("complete", [True, False])
def test_given_periodic_edges(dtype, complete):
    from pyg_schnet.graph import neighbor_edges

    model, data = small_schnet(dtype), skewed_crystal(dtype)
    edge_index, shift = neighbor_edges(data.pos, 4.0, cell=data.cell, pbc=data.pbc)
    last = edge_index.size(1) - (0 if complete else 5)
    data.edge_index, data.cell_shift = edge_index[:, :last], shift[:last]
    got = FrozenPotential(model, stress=True)(data)
    assert_same(got, exact(model, data, stress=True))


def test_a_capped_number_of_neighbours(dtype):
    model = small_schnet(dtype, max_num_neighbors=3)
    data = random_molecule(20, 2, dtype)
    with pytest.warns(UserWarning):
        assert_same(FrozenPotential(model)(data), exact(model, data))


def test_forces_are_the_gradient_of_its_own_energy():
    frozen = FrozenPotential(small_schnet(cutoff=3.0))
    data = methanol()

    def energy(pos: torch.Tensor) -> torch.Tensor:
        return frozen(Data(z=data.z, pos=pos))["energy"][0]

    assert_close(
        frozen(data)["forces"], -finite_difference(energy, data.pos), rtol=1e-8, atol=1e-10
    )


def test_beyond_the_grid_filters_are_constant():
    model = small_schnet(cutoff_fn="none", cutoff=2.0)
    pair = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]).double()
    data = Data(z=torch.tensor([8, 1]), pos=pair)
    got = FrozenPotential(model)(data)
    assert_close(got["energy"], exact(model, data)["energy"], rtol=1e-8, atol=0.0)
    assert_close(got["forces"], torch.zeros(2, 3).double())


@pytest.mark.parametrize("option", ["cosine", "normalize, hard"])
@pytest.mark.parametrize("periodic", [False, True])
def test_a_kept_list_changes_nothing(option, periodic):
    model = small_schnet(**{**OPTIONS[option], "cutoff": 2.5})
    data = skewed_crystal() if periodic else random_molecule(24, 4)
    kept = FrozenPotential(model, stress=periodic, skin=0.8)
    fresh = FrozenPotential(model, stress=periodic, skin=0.0)
    generator = torch.Generator().manual_seed(0)
    moves = 100
    for _ in range(moves):
        step = torch.randn(data.pos.shape, generator=generator, dtype=torch.float64)
        data.pos = data.pos + 0.03 * step
        got, want = kept(data), fresh(data)
        for name in want:
            assert torch.equal(got[name], want[name]), name
    assert fresh.searches == moves
    assert 1 < kept.searches < moves / 4


def test_a_changed_cell_makes_a_new_search():
    model, data = small_schnet(), skewed_crystal()
    frozen = FrozenPotential(model, stress=True)
    frozen(data)
    data.cell = data.cell * 1.05
    assert_same(frozen(data), exact(model, data, stress=True))
    assert frozen.searches == 2


def test_all_pairs_are_searched_once():
    frozen, data = FrozenPotential(small_schnet(cutoff_fn="none")), methanol()
    for _ in range(3):
        data.pos = data.pos * 1.5
        frozen(data)
    assert frozen.searches == 1


def test_threads_agree(monkeypatch, dtype):
    monkeypatch.setattr(frozen_module, "_SMALL", 0)
    model = small_schnet(dtype, num_interactions=3, normalize="neighbors")
    crystals = [skewed_crystal(dtype) for _ in range(20)]
    for number, crystal in enumerate(crystals):
        crystal.pos = crystal.pos + 0.01 * number * torch.randn_like(crystal.pos)
    data = Batch.from_data_list(crystals)
    want = FrozenPotential(model, stress=True)(data)
    try:
        torch.set_num_threads(2)
        frozen = FrozenPotential(model, stress=True)
        for _ in range(5):
            got = frozen(data)
            for name in want:
                assert torch.equal(got[name], want[name]), name
    finally:
        torch.set_num_threads(1)


def test_two_callers_may_share_it():
    model = small_schnet(torch.float32)
    frozen = FrozenPotential(model)
    inputs = [random_molecule(12, seed, torch.float32) for seed in range(2)]
    want = [FrozenPotential(model)(data) for data in inputs]
    wrong = []

    def call(number: int) -> None:
        for _ in range(40):
            got = frozen(inputs[number])
            if not torch.equal(got["forces"], want[number]["forces"]):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_handle_gives_arrays(dtype):
    model, data = small_schnet(dtype), skewed_crystal(dtype)
    frozen = FrozenPotential(model, stress=True)
    want = frozen(data)
    handle = frozen.structure(data)
    energy, forces, virial = handle.evaluate(data.pos.numpy())
    assert energy.dtype == "float64" and virial.dtype == "float64"
    assert torch.equal(torch.from_numpy(energy), want["energy"])
    assert torch.equal(torch.from_numpy(forces), want["forces"])
    volume = float(torch.linalg.det(data.cell[0].double()))
    assert_close(torch.from_numpy(virial / volume).to(dtype), want["stress"])
    again, _, _ = handle.evaluate(data.pos.double().numpy())
    assert_close(torch.from_numpy(again), want["energy"], rtol=1e-7, atol=1e-7)


def test_a_handle_takes_any_array():
    handle = FrozenPotential(small_schnet()).structure(water())
    pos = water().pos.numpy()
    want = handle.evaluate(pos)[1]
    assert (handle.evaluate(pos[::-1].copy()[::-1])[1] == want).all()
    pos.flags.writeable = False
    assert (handle.evaluate(pos)[1] == want).all()


def test_a_handle_without_stress_gives_no_virial():
    handle = FrozenPotential(small_schnet()).structure(water())
    assert handle.evaluate(water().pos.numpy())[2] is None
    with pytest.raises(ValueError, match=r"pos must be float32 or float64 of shape \(3, 3\)"):
        handle.evaluate(methanol().pos.numpy())


def test_no_atoms_have_no_energy():
    none = Data(z=torch.zeros(0, dtype=torch.long), pos=torch.zeros(0, 3).double())
    got = FrozenPotential(small_schnet())(none)
    assert got["energy"].tolist() == [0.0]
    assert got["forces"].shape == (0, 3)


def test_a_handle_keeps_its_atoms():
    data = water()
    frozen = FrozenPotential(small_schnet())
    handle = frozen.structure(data)
    want = handle.evaluate(data.pos.numpy())[0]
    data.z[0] = 99
    assert handle.evaluate(data.pos.numpy())[0] == want


def test_results_are_the_callers_own():
    frozen = FrozenPotential(small_schnet())
    first = frozen(water())
    kept = first["forces"].clone()
    frozen(Data(z=water().z, pos=1.1 * water().pos))
    assert torch.equal(first["forces"], kept)


def test_later_changes_of_the_model_have_no_effect():
    model = small_schnet()
    frozen = FrozenPotential(model)
    want = frozen(water())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    assert torch.equal(
        frozen(methanol())["energy"], FrozenPotential(small_schnet())(methanol())["energy"]
    )
    assert torch.equal(frozen(water())["energy"], want["energy"])


def test_it_works_under_inference_mode_and_after():
    model = small_schnet()
    frozen = FrozenPotential(model)
    with torch.inference_mode():
        inside = frozen(methanol())
        frozen(Data(z=methanol().z, pos=methanol().pos * 1.5))
    assert_same(frozen(methanol()), exact(model, methanol()))
    assert torch.equal(inside["forces"], frozen(methanol())["forces"])


def test_positions_that_are_no_positions():
    frozen = FrozenPotential(small_schnet(), skin=1.0)
    data = methanol()
    frozen(data)
    good = data.pos
    data.pos = good.clone()
    data.pos[2, 1] = float("nan")
    with pytest.raises(ValueError, match="pos of atom 2"):
        frozen(data)
    data.pos = good.clone()
    data.pos[3] = data.pos[2]
    with pytest.raises(ValueError, match="atoms 2 and 3 on one point"):
        frozen(data)
    data.pos = good
    assert_same(frozen(data), exact(small_schnet(), data))


def test_inputs_are_checked():
    frozen = FrozenPotential(small_schnet())
    with pytest.raises(ValueError, match="pos is float32 but the model is float64"):
        frozen(water(torch.float32))
    data = water()
    data.z = torch.tensor([8, 1, 100])
    with pytest.raises(ValueError, match=r"z must lie in 0\.\.99"):
        frozen(data)
    data = water()
    data.edge_index = torch.tensor([[0, 3], [1, 0]])
    with pytest.raises(IndexError, match="from 0 to 2"):
        frozen(data)
    data.edge_index = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"edge_index must have shape \(2, E\)"):
        frozen(data)
    data = water()
    data.batch = torch.tensor([0, -1, 0])
    with pytest.raises(ValueError, match="batch must number the molecules from 0 to 0"):
        frozen(data)
    with pytest.raises(ValueError, match="stress needs a periodic structure"):
        FrozenPotential(small_schnet(), stress=True)(water())


class Ramp(nn.Module):
    def forward(self, d: torch.Tensor) -> torch.Tensor:
        return (4.0 - d).clamp(min=0.0)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("", lambda pos, batch: None, "interaction_graph"),
        ("distance_expansion", nn.Identity(), "distance_expansion"),
        ("interactions.1", nn.Identity(), r"a Identity in interactions\[1\]"),
        ("interactions.1.conv.cutoff_fn", Ramp(), "the cutoff function Ramp"),
        ("interactions.1.conv.nn", nn.Linear(8, 10), "a filter network of type Linear"),
        ("interactions.0.act", nn.ReLU(), "the activation ReLU"),
    ],
)
def test_models_with_other_parts_are_refused(part, value, message):
    model = small_schnet()
    if part:
        model.set_submodule(part, value)
    else:
        model.interaction_graph = value
    with pytest.raises(ValueError, match=message):
        FrozenPotential(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_schnet(dipole=True), "needs an energy model"),
        (lambda: small_schnet().half(), "model is in float16"),
        (lambda: small_schnet().to("meta"), "model is on meta"),
        (lambda: nn.Linear(2, 2), "Only a SchNet can be frozen, got Linear"),
    ],
)
def test_models_that_cannot_be_frozen_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        FrozenPotential(make())


def test_a_skin_is_a_length():
    with pytest.raises(ValueError, match="skin must be a finite length of at least 0"):
        FrozenPotential(small_schnet(), skin=-0.1)


def test_numba_is_asked_for(monkeypatch):
    from pyg_schnet.ops.backends import cpu

    name = "pyg_schnet.ops.backends.cpu.engine"
    monkeypatch.delattr(cpu, "engine", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="needs Numba: pip install numba"):
        FrozenPotential(small_schnet())


def test_it_says_what_it_is():
    assert repr(FrozenPotential(small_schnet(), skin=0.3)) == (
        "FrozenPotential(SchNet(hidden_channels=12, num_filters=10, num_interactions=2, "
        "num_gaussians=8, cutoff=4.0), stress=False, skin=0.3)"
    )
