import pytest
import torch
from helpers import methanol, skewed_crystal, small_schnet, water
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential
from pyg_schnet.models.captured import CapturedPotential

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_refuses_a_model_on_the_cpu():
    with pytest.raises(ValueError, match="captured on CUDA, but the model is on cpu"):
        CapturedPotential(small_schnet())


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"normalize": "neighbors"}, {"cutoff_fn": "none"}])
def test_walk_equals_the_potential(options):
    model = small_schnet(torch.float32, **options).cuda()
    potential = Potential(model).eval()
    frozen = potential.freeze()
    data = Batch.from_data_list([water(torch.float32), methanol(torch.float32)]).to("cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    for _ in range(20):
        step = torch.randn(data.pos.shape, device="cuda", generator=generator)
        data.pos = data.pos + 0.02 * step
        for name, value in potential(data).items():
            assert_close(frozen(data)[name], value, rtol=1e-4, atol=1e-5)
    if not options:
        assert frozen.searches == frozen.captures < 10


@gpu
@pytest.mark.gpu
def test_stress_of_a_crystal():
    model = small_schnet(torch.float64).cuda()
    potential = Potential(model, stress=True).eval()
    data = skewed_crystal().to("cuda")
    frozen = potential.freeze()
    for name, value in potential(data).items():
        assert_close(frozen(data)[name], value, rtol=1e-9, atol=1e-11)
    larger = Data(z=data.z, pos=1.01 * data.pos, cell=1.01 * data.cell, pbc=data.pbc)
    assert_close(frozen(larger)["stress"], potential(larger)["stress"], rtol=1e-9, atol=1e-11)
