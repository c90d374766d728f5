import pytest
import torch
from helpers import methanol, skewed_crystal, water
from torch_geometric.data import Data


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors here are too small for more: threads that wait for each other cost seconds."""
    torch.set_num_threads(1)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["f32", "f64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


@pytest.fixture
def h2o() -> Data:
    return water()


@pytest.fixture
def ch3oh() -> Data:
    return methanol()


@pytest.fixture
def crystal() -> Data:
    return skewed_crystal()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
