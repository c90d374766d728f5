"""Which backend is chosen, what is said when none can be, and that all of them agree."""

import importlib.util

import pytest
import torch
from helpers import random_molecule, small_schnet
from ops.test_form import BACKENDS, case
from torch.testing import assert_close

from pyg_schnet.ops import backends, choose_backend, fingerprint
from pyg_schnet.ops.backends import is_installed, kernel, kernels, reference

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _without_forced_backend(monkeypatch):
    monkeypatch.delenv("PYG_SCHNET_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def absent(monkeypatch):
    """A function that makes packages look uninstalled."""
    find = importlib.util.find_spec

    def forget() -> None:
        is_installed.cache_clear()
        backends._choose.cache_clear()

    def make(*names: str) -> None:
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name)
        )
        forget()

    yield make
    monkeypatch.undo()
    forget()


def everything_installed(monkeypatch) -> None:
    monkeypatch.setattr(backends, "is_installed", lambda name: True)
    backends._choose.cache_clear()
    monkeypatch.setattr(backends, "_choose", backends._choose.__wrapped__)


def test_auto_takes_the_compiler_of_the_device(monkeypatch):
    everything_installed(monkeypatch)
    assert choose_backend(CPU) == "cpu"
    assert choose_backend(CPU, torch.float64) == "cpu"
    assert choose_backend(CUDA) == "cuda"
    for dtype in (torch.float16, torch.bfloat16):
        assert choose_backend(CPU, dtype) == choose_backend(CUDA, dtype) == "reference"
    assert choose_backend(torch.device("meta")) == "reference"


def test_auto_falls_back_to_the_reference(absent):
    absent("numba", "triton", "torch_scatter")
    assert choose_backend(CPU) == choose_backend(CUDA) == "reference"


@pytest.mark.parametrize("name", ["reference", "scatter", "cpu"])
def test_an_argument_or_the_variable_forces_one(name, monkeypatch):
    everything_installed(monkeypatch)
    assert choose_backend(CPU, requested=name) == name
    monkeypatch.setenv("PYG_SCHNET_BACKEND", name)
    assert choose_backend(CPU) == name
    assert choose_backend(CPU, requested="reference") == "reference"


def test_an_argument_weighs_more_than_the_variable(monkeypatch):
    monkeypatch.setenv("PYG_SCHNET_BACKEND", "nonsense")
    assert choose_backend(CPU, requested="reference") == "reference"


def test_unknown_names_are_refused(monkeypatch):
    known = r"must be 'auto', 'reference', 'scatter', 'cpu' or 'cuda', got 'gpu'"
    with pytest.raises(ValueError, match=f"^backend {known}"):
        choose_backend(CPU, requested="gpu")
    monkeypatch.setenv("PYG_SCHNET_BACKEND", "gpu")
    with pytest.raises(ValueError, match=f"^PYG_SCHNET_BACKEND {known}"):
        choose_backend(CPU)


@pytest.mark.parametrize(
    ("name", "package", "device", "mend"),
    [
        ("cpu", "numba", CPU, "pip install numba"),
        ("scatter", "torch_scatter", CPU, r"pip install 'pyg_schnet\[scatter\]'"),
        ("cuda", "triton", CUDA, "install triton"),
    ],
)
def test_a_backend_that_is_not_installed_says_what_to_install(name, package, device, mend, absent):
    absent(package)
    with pytest.raises(ImportError, match=f"'{name}' was asked for but {package} is not .*{mend}"):
        choose_backend(device, requested=name)


@pytest.mark.parametrize(("name", "device"), [("cuda", CPU), ("cpu", CUDA)])
def test_tensors_on_another_device_are_refused(name, device, monkeypatch):
    everything_installed(monkeypatch)
    with pytest.raises(ValueError, match=f"'{name}' needs tensors on {name}, but they are on"):
        choose_backend(device, requested=name)


def test_half_precision_is_refused_by_compiled_backends(monkeypatch):
    everything_installed(monkeypatch)
    for name, device in (("cpu", CPU), ("cuda", CUDA)):
        with pytest.raises(ValueError, match="float32 and float64, not torch.float16; take"):
            choose_backend(device, torch.float16, name)


@pytest.mark.parametrize("name", BACKENDS)
def test_what_a_backend_lacks_the_reference_does(name):
    for function in ("form", "csr", "spline", "spline_dot", "knots", "prefilter", "ssp"):
        own = getattr(kernels(name), function, None)
        assert kernel(name, function) is (own or getattr(reference, function))


def energy_and_forces(**options):
    model = small_schnet(**options)
    molecules = [random_molecule(size, size) for size in (4, 6)]
    z = torch.cat([molecule.z for molecule in molecules])
    pos = torch.cat([molecule.pos for molecule in molecules]).requires_grad_()
    energy = model(z, pos, torch.repeat_interleave(torch.arange(2), torch.tensor([4, 6])))
    return energy, torch.autograd.grad(energy.sum(), pos)[0]


@pytest.mark.parametrize("by", ["argument", "variable"])
@pytest.mark.parametrize("filters", ["exact", "tabulated"])
@pytest.mark.parametrize("name", BACKENDS)
def test_schnet_gives_the_same_on_every_backend(name, filters, by, monkeypatch):
    want = energy_and_forces(filters=filters, backend="reference")
    if by == "variable":
        monkeypatch.setenv("PYG_SCHNET_BACKEND", name)
    got = energy_and_forces(filters=filters, backend=name if by == "argument" else "auto")
    for one, other in zip(got, want):
        assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_schnet_asks_for_the_backend_that_it_is_told(absent):
    absent("torch_scatter")
    with pytest.raises(ImportError, match="'scatter' was asked for"):
        energy_and_forces(backend="scatter")


def test_schnet_works_without_any_compiler(absent):
    want = energy_and_forces(backend="reference")
    absent("numba", "torch_scatter", "triton")
    for one, other in zip(energy_and_forces(), want):
        assert_close(one, other, rtol=1e-12, atol=1e-13)


# Samples for torch's own checks of an operator: schema, fake tensors, autograd, tracing.
def _operator_samples(backend: str) -> dict[str, tuple]:
    factors, rest, knots = case("pairs", 5, tabulated=True)
    factors = tuple(factor.requires_grad_() for factor in factors)
    directed = (*rest[:-1], rest[-1][:0])
    index, order = rest[1], rest[2:6]
    d = torch.rand(7, dtype=torch.float64, requires_grad=True)
    grid = (0.25, 8, backend)
    six = torch.rand(7, 6, dtype=torch.float64, requires_grad=True)
    a = torch.randn(3, 4, requires_grad=True)
    b = torch.randn(16, 4, requires_grad=True)
    three = torch.rand(11, 3, requires_grad=True)
    return {
        "form": (*factors, *rest, knots, 15, backend),
        "form, y open": (*factors, *directed, knots, 4, backend),
        "csr": (index[0].flip(0), 11, backend),
        "ssp": (d, backend),
        "ssp_grad": (d, d.detach().flip(0).requires_grad_(), 2, backend),
        "spline": (d.detach().flip(0).requires_grad_(), d, 1, *grid),
        "spline_dot": (six, d, 1, *grid),
        "knots": (d.detach(), *grid),
        "edge_difference": (three, index, *order, backend),
        "edge_divergence": (
            torch.rand(index.size(1), 3, requires_grad=True),
            index,
            *order,
            backend,
        ),
        "prefilter": (torch.rand(12, 3, requires_grad=True), False, backend),
        "product": (a, b, backend),
        "biased_product": (a, b, torch.randn(16, requires_grad=True), backend),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", _operator_samples("reference"))
def test_operators_pass_the_checks_of_torch(name, backend):
    operator = getattr(torch.ops.pyg_schnet, name.partition(",")[0]).default
    torch.library.opcheck(operator, _operator_samples(backend)[name])


@pytest.fixture(params=["compiled", "hashed"])
def _way_of_fingerprint(request, absent):
    if request.param == "hashed":
        absent("numba")
    elif "cpu" not in BACKENDS:
        pytest.skip("numba is not installed")


@pytest.mark.usefixtures("_way_of_fingerprint")
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (5, 13), (64, 64)])
def test_fingerprint_sees_every_bit(shape, dtype):
    weight, other = torch.randn(shape, dtype=dtype), torch.randn(3)
    before = fingerprint([weight, other])
    assert fingerprint([weight, other]) == before
    assert fingerprint([weight.clone(), other.clone()]) == before
    integer = weight.view(torch.int32).view(-1)
    for place in {0, integer.numel() // 2, integer.numel() - 1}:
        for bit in (0, 9, 30):
            integer[place] ^= 1 << bit
            assert fingerprint([weight, other]) != before
            integer[place] ^= 1 << bit
    assert fingerprint([weight, other]) == before
    assert fingerprint([other, weight]) != before


@pytest.mark.usefixtures("_way_of_fingerprint")
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_fingerprint_sees_the_last_of_an_odd_number_of_halves(half):
    weight = torch.ones(7, dtype=half)
    before = fingerprint([weight])
    weight[6] = 2
    assert fingerprint([weight]) != before


@pytest.mark.usefixtures("_way_of_fingerprint")
def test_fingerprint_sees_changes_that_version_counters_do_not():
    weight = torch.nn.Parameter(torch.randn(4, 4))
    before, version = fingerprint([weight]), weight._version
    weight.data.copy_(weight.data + 1)
    assert weight._version == version
    assert fingerprint([weight]) != before


@pytest.mark.usefixtures("_way_of_fingerprint")
def test_fingerprint_tells_signs_of_zero_and_swapped_values_apart():
    zeros = torch.zeros(20)
    negative = zeros.clone()
    negative[13] = -0.0
    assert fingerprint([zeros]) != fingerprint([negative])
    values = torch.arange(32.0)
    swapped = values.clone()
    swapped[3], swapped[11] = values[11], values[3]
    assert fingerprint([values]) != fingerprint([swapped])
    assert fingerprint([values.view(4, 8)]) != fingerprint([values.view(4, 8).T])
    assert isinstance(hash(fingerprint([values])), int)
