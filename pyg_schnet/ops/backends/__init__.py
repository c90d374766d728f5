"""Who computes: plain torch, torch_scatter, Numba on the CPU, or Triton on CUDA.

Every backend is a module with functions of the same names and results; what one lacks, the
reference does. ``PYG_SCHNET_BACKEND`` forces one for the whole process, an argument for one call.
"""

import functools
import importlib
import importlib.util
import os
from types import ModuleType

import torch

VARIABLE = "PYG_SCHNET_BACKEND"
NAMES = ("reference", "scatter", "cpu", "cuda")
_NEEDS = {"scatter": "torch_scatter", "cpu": "numba", "cuda": "triton"}
_MEND = {
    "scatter": "install torch-scatter, or pip install 'pyg_schnet[scatter]'",
    "cpu": "pip install numba",
    "cuda": "install triton, which comes with the CUDA builds of torch",
}
_KERNEL_DTYPES = (torch.float32, torch.float64)


@torch.compiler.assume_constant_result
def choose_backend(
    device: torch.device, dtype: torch.dtype = torch.float32, requested: str = "auto"
) -> str:
    """The backend to use on a device.

    Args:
        device: Where the tensors are.
        dtype: Theirs. Kernels are compiled for float32 and float64; "auto" takes the reference for
            others.
        requested: "auto", "reference", "scatter", "cpu" or "cuda". "auto" follows the environment
            variable ``PYG_SCHNET_BACKEND`` if that is set, else takes "cuda" on CUDA, "cpu" on the
            CPU, each if its compiler is installed, else "reference".

    Returns:
        One of the four names.

    Raises:
        ValueError: If the name is unknown or the backend cannot work on the device.
        ImportError: If a backend that is asked for by name is not installed.

    Example:
        >>> choose_backend(torch.device("cpu"), requested="reference")
        'reference'
    """
    forced = os.environ.get(VARIABLE, "auto") if requested == "auto" else None
    return _choose(device, dtype, requested, forced, os.environ.get("TRITON_INTERPRET") == "1")


@functools.cache
def _choose(
    device: torch.device, dtype: torch.dtype, requested: str, forced: str | None, interpret: bool
) -> str:
    asked = forced or requested
    if asked == "auto":
        if dtype not in _KERNEL_DTYPES or device.type not in ("cpu", "cuda"):
            return "reference"
        return device.type if is_installed(device.type) else "reference"
    if asked not in NAMES:
        source = VARIABLE if forced else "backend"
        raise ValueError(
            f"{source} must be 'auto', 'reference', 'scatter', 'cpu' or 'cuda', got {asked!r}."
        )
    if not is_installed(asked):
        raise ImportError(
            f"The backend {asked!r} was asked for but {_NEEDS[asked]} is not installed: "
            f"{_MEND[asked]}."
        )
    interpreted = asked == "cuda" and interpret
    if asked in ("cpu", "cuda") and device.type != asked and not interpreted:
        raise ValueError(
            f"The backend {asked!r} needs tensors on {asked}, but they are on {device}; move the "
            "model and its input, or take backend='auto'."
        )
    if asked in ("cpu", "cuda") and dtype not in _KERNEL_DTYPES:
        raise ValueError(
            f"The backend {asked!r} is compiled for float32 and float64, not {dtype}; "
            "take backend='reference'."
        )
    return asked


@functools.cache
def is_installed(name: str) -> bool:
    """Whether the package that a backend needs can be found; it is not imported."""
    return name == "reference" or importlib.util.find_spec(_NEEDS[name]) is not None


@functools.cache
def kernels(name: str) -> ModuleType:
    """The module of a backend, imported when first used."""
    return importlib.import_module(f"pyg_schnet.ops.backends.{name}")


@functools.cache
def kernel(name: str, function: str):  # type: ignore[no-untyped-def]
    """A function of a backend, or the reference's where it has none."""
    own = getattr(kernels(name), function, None)
    return own if own is not None else getattr(kernels("reference"), function)
