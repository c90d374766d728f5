import copy

import pytest
import torch
from torch import nn

from pyg_schnet.nn import Atomwise, GaussianSmearing
from pyg_schnet.nn.precision import Float64Buffers

MEAN = -11178.966666666667  # not a float32


class Offset(Float64Buffers):
    float64_buffers = ("mean", "missing")

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN, dtype=torch.float64))
        self.register_buffer("missing", None)
        self.register_buffer("ordinary", torch.tensor(0.1, dtype=torch.float64))
        self.weight = nn.Parameter(torch.ones(1))


CASTS = {
    "float": lambda m: m.float(),
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "to": lambda m: m.to(torch.float32),
    "to_device_and_dtype": lambda m: m.to("cpu", torch.float16),
    "down_and_up": lambda m: m.half().double(),
    "deepcopy": lambda m: copy.deepcopy(m.float()),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
def test_named_buffers_survive(cast):
    for module in (cast(Offset()), cast(nn.Sequential(Offset()))[0]):
        assert module.mean.dtype == torch.float64
        assert float(module.mean) == MEAN
        assert module.missing is None


def test_other_buffers_and_parameters_are_cast_as_usual():
    module = Offset().half()
    assert module.ordinary.dtype == torch.float16
    assert module.weight.dtype == torch.float16


def test_named_buffers_move_between_devices_without_their_dtype():
    moved = Offset().to("meta", torch.float32)
    assert moved.mean.device.type == "meta"
    assert moved.mean.dtype == torch.float64
    assert moved.weight.dtype == torch.float32


def test_state_dict_carries_them_in_float64_through_a_float32_model():
    source, target = Offset().float(), Offset().float()
    with torch.no_grad():
        source.mean.mul_(3)
    target.load_state_dict(source.state_dict())
    assert float(target.mean) == MEAN * 3


@pytest.mark.gpu
def test_named_buffers_reach_the_gpu_in_float64():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    module = Offset().to("cuda", torch.float32)
    assert module.mean.is_cuda and module.mean.dtype == torch.float64


def test_constants_of_the_layers_are_such_buffers():
    head, basis = Atomwise(8, mean=MEAN, std=0.1).float(), GaussianSmearing(0, 5, 7).float()
    for buffer in (head.mean, head.std, head.atomref, head.scale, basis.offset, basis.gamma):
        assert buffer.dtype == torch.float64
    assert float(head.mean) == MEAN
    assert float(head.std) == 0.1
