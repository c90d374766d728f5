"""Programs that run without this package: torch.export, AOTInductor and ONNX."""

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyg_schnet.interop.plain import Exportable, exportable, torch_without_pyg

METADATA = "pyg_schnet.json"
"""Name of the entry of the file that says what it is."""

INPUTS = ("z", "pos", "batch", "cell", "edge_index", "cell_shift")
OUTPUTS = ("energy", "forces", "virial")


class Program(nn.Module):
    r"""Energies, forces and virials from atoms and edges.

    .. math::
        \mathbf v_{ij} = \mathbf r_j + \mathbf n_{ij} \mathbf C - \mathbf r_i, \qquad
        \mathbf F_i = \sum_j \left( \frac{\partial E}{\partial \mathbf v_{ij}}
            - \frac{\partial E}{\partial \mathbf v_{ji}} \right), \qquad
        \mathbf V = \sum_{ij} \mathbf v_{ij} \otimes \frac{\partial E}{\partial \mathbf v_{ij}}

    Args:
        network: A plain network.
        mean: Whether the energy is a mean over atoms.
    """

    def __init__(self, network: nn.Module, mean: bool) -> None:
        super().__init__()
        self.network = network
        self.mean = mean
        self.dtype = next(network.parameters()).dtype

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        cell_shift: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate.

        Args:
            z: Atomic numbers (N,), int64.
            pos: Positions (N, 3), Å, float64.
            batch: Structure of each atom (N,), int64, from 0 to B - 1.
            cell: Lattice vectors as rows (B, 3, 3), Å, float64; zeros without.
            edge_index: (2, E), int64: row 0 neighbour j, row 1 centre i; both directions.
            cell_shift: Lattice vectors that the neighbour is away (E, 3), int64.

        Returns:
            energy (B,), eV; forces (N, 3), eV/Å; and virial (B, 3, 3), eV, which divided by the
            volume is the stress; all float64.
        """
        source, target = edge_index[0], edge_index[1]
        of_edge = batch.index_select(0, target)
        shift = torch.bmm(cell_shift.to(pos.dtype).unsqueeze(1), cell.index_select(0, of_edge))
        vector = pos.index_select(0, source) + shift.squeeze(1) - pos.index_select(0, target)
        vector = vector.detach().requires_grad_(True)
        distance = torch.linalg.vector_norm(vector, dim=1)
        of_atom = self.network(z, source, target, distance.to(self.dtype))
        if self.mean:
            ones = torch.ones_like(of_atom)
            counts = torch.zeros_like(cell[:, 0, 0]).index_add(0, batch, ones)
            of_atom = of_atom / counts.index_select(0, batch)
        energy = torch.zeros_like(cell[:, 0, 0]).index_add(0, batch, of_atom)
        (slope,) = torch.autograd.grad([of_atom.sum()], [vector])  # [E, 3]
        forces = torch.zeros_like(pos).index_add(0, target, slope).index_add(0, source, -slope)
        product = vector.unsqueeze(2) * slope.unsqueeze(1)
        virial = torch.zeros_like(cell).index_add(0, of_edge, product)
        return energy.detach(), forces.detach(), virial.detach()


def to_torch_export(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    elements: Sequence[int] | None = None,
) -> torch.export.ExportedProgram:
    """A model as a program of ``torch.export``, for any numbers of atoms, edges and structures.

    Inputs and outputs are those of :class:`Program`, in its order. ``torch.export.load(path)``
    needs torch alone, and ``.module()`` makes it callable; the caller finds the edges. The entry
    "pyg_schnet.json" of the file says cutoff, elements and units.

    Args:
        model: A SchNet or DTNN of energies, a Potential of one, a file, or the name of a model that
            comes with the package.
        path: Where to write it, a ``.pt2`` file; None does not.
        dtype: Of the network; None keeps that of the model. Positions and sums are float64.
        elements: Atomic numbers that the model knows; None takes what its file says.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: As :func:`~pyg_schnet.interop.plain.exportable`, or if ``path`` does not end in
            .pt2.
    """
    _check_suffix(path, ".pt2")
    known = exportable(model, dtype, elements)
    program = _exported(known)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, str(path), extra_files={METADATA: _metadata(known)})
    return program


def to_aoti(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    elements: Sequence[int] | None = None,
) -> Path:
    """A model as a package of compiled code by AOTInductor; about a minute of compiling.

    ``torch._inductor.aoti_load_package(path)`` calls it as the program of :func:`to_torch_export`,
    from Python or C++. The code is for the CPU of the machine that compiled it.

    Args:
        model: As there.
        path: Where to write it, a ``.pt2`` file.
        dtype: As there.
        elements: As there.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If there is no such model.
        RuntimeError: If there is no C++ compiler.
        ValueError: As :func:`to_torch_export`.
    """
    _check_suffix(path, ".pt2")
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++")):
        raise RuntimeError(
            "AOTInductor needs a C++ compiler; install g++ or name one in the variable CXX."
        )
    import torch._inductor as inductor

    known = exportable(model, dtype, elements)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    program = _exported(known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecations
        inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": {METADATA: _metadata(known)}},
        )
    return Path(path)


def to_onnx(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    elements: Sequence[int] | None = None,
) -> Path:
    """A model as an ONNX file, of energies, forces and virials.

    The network is float32, since ONNX Runtime has no softplus in float64; positions, constants and
    sums are float64. Inputs have the names of :class:`Program`.

    Args:
        model: As :func:`to_torch_export`.
        path: Where to write it, an ``.onnx`` file.
        elements: As there.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If there is no such model.
        ImportError: If onnx or onnxscript is not installed.
        ValueError: As :func:`to_torch_export`, or if ``path`` does not end in .onnx.
    """
    _check_suffix(path, ".onnx")
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise ImportError(
                f"{package} is not installed: pip install onnx onnxscript onnxruntime"
            )
    known = exportable(model, torch.float32, elements)
    inputs, shapes = _example()
    program = _exported(known)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with torch_without_pyg(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecations
        made = torch.onnx.export(
            program,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert made is not None
    made.model.metadata_props[METADATA] = _metadata(known)
    made.save(str(path))
    return Path(path)


def _exported(known: Exportable) -> torch.export.ExportedProgram:
    """The program with its derivatives written out."""
    from torch.fx.experimental.proxy_tensor import make_fx

    inputs, shapes = _example()
    program = Program(known.network, known.mean).eval()
    with torch_without_pyg():
        # torch.export does not look into torch.autograd.grad, this tracer does.
        traced = make_fx(program, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
        return torch.export.export(traced, inputs, dynamic_shapes=shapes)


def _example() -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Inputs to trace with, and which of their sizes may change."""
    atoms, edges, graphs = 5, 14, 2
    generator = torch.Generator().manual_seed(0)
    inputs = (
        torch.ones(atoms, dtype=torch.long),
        4 * torch.rand(atoms, 3, dtype=torch.float64, generator=generator),
        torch.tensor([0, 0, 0, 1, 1]),
        torch.eye(3, dtype=torch.float64).repeat(graphs, 1, 1),
        torch.randint(0, atoms, (2, edges), generator=generator),
        torch.ones(edges, 3, dtype=torch.long),
    )
    n, e, b = (torch.export.Dim(name, max=2**40) for name in ("atoms", "edges", "graphs"))
    return inputs, ({0: n}, {0: n}, {0: n}, {0: b}, {1: e}, {0: e})


def _metadata(known: Exportable) -> str:
    return json.dumps(
        {
            "inputs": INPUTS,
            "outputs": OUTPUTS,
            "cutoff": known.cutoff,
            "cutoff_fn": known.cutoff_fn,
            "elements": known.elements,
            "units": {"length": "Å", "energy": "eV", "forces": "eV/Å", "virial": "eV"},
            "info": known.info,
        },
        default=str,
    )


def _check_suffix(path: str | os.PathLike[str] | None, suffix: str) -> None:
    if path is not None and Path(path).suffix != suffix:
        raise ValueError(f"The file must end in {suffix}, got {os.fspath(path)!r}.")


__all__ = ["Program", "to_aoti", "to_onnx", "to_torch_export"]
