"""Export to metatomic, by which i-PI, PLUMED, LAMMPS, ASE and others evaluate a model.

``metatomic-torch`` is imported when it is first used.
"""

# TorchScript wants types among the globals of this file, where they are only with metatomic.
# mypy: disable-error-code="import-not-found, name-defined"

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035 TorchScript knows these

import torch
from torch import Tensor, nn

from pyg_schnet.interop.plain import Exportable, PlainNetwork, exportable, torch_without_pyg


def to_metatomic(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    elements: Sequence[int] | None = None,
    name: str = "SchNet",
    description: str = "",
) -> Any:
    r"""A model as metatomic's ``AtomisticModel``, a TorchScript program without this package.

    It asks the engine for a full list of neighbours within the cutoff and gives the energy, of the
    system or of each atom; engines take forces and stresses as its derivatives,

    .. math::
        E = \sum_i e_i(\{d_{ij}\}), \qquad
        \mathbf F_i = -\partial E / \partial \mathbf r_i, \qquad
        \sigma = \frac{1}{V} \partial E / \partial \varepsilon

    Lengths are Å and energies eV. Cells may be periodic or not. There are no non-conservative
    forces. The output "feature", which PLUMED takes as collective variables, are the features of
    the atoms after the last interaction, or their sum over the system.

    Args:
        model: A SchNet or DTNN of energies, a Potential of one, a file, or the name of a model that
            comes with the package.
        path: Where to write it, a ``.pt`` file; None does not.
        dtype: In which engines compute. The default keeps total energies that float32 rounds to
            some meV.
        elements: Atomic numbers that the model knows; None takes what its file says, and all where
            that says nothing.
        name: Of the model, for its metadata.
        description: Likewise.

    Returns:
        The ``metatomic.torch.AtomisticModel``.

    Raises:
        ImportError: If metatomic is not installed.
        FileNotFoundError: If there is no such model.
        ValueError: If the model has no cutoff, is a mean over atoms, or as
            :func:`~pyg_schnet.interop.plain.exportable`.
    """
    known = exportable(model, dtype, elements)
    if known.cutoff_fn == "none":
        raise ValueError(
            "metatomic's engines list neighbours within a cutoff, but this model has "
            "cutoff_fn='none': all pairs interact."
        )
    if known.mean:
        raise ValueError(
            "metatomic's energies are sums over atoms, but this model has readout='mean'."
        )
    with torch_without_pyg():
        exported = _exported(known, dtype, name, description)
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            exported.save(str(path))
    return exported


def _exported(known: Exportable, dtype: torch.dtype, name: str, description: str) -> Any:
    try:
        from metatomic.torch import AtomisticModel, ModelCapabilities, ModelMetadata, ModelOutput
    except ImportError as error:
        raise ImportError("metatomic is not installed: pip install metatomic-torch") from error
    # Asked for energies of atoms, it can give that of the system too.
    energy = ModelOutput(unit="eV", sample_kind="atom", description="potential energy")
    feature = ModelOutput(sample_kind="atom", description="features after the last interaction")
    capabilities = ModelCapabilities(
        outputs={"energy": energy, "feature": feature},
        atomic_types=known.elements,
        interaction_range=known.interaction_range,
        length_unit="angstrom",
        supported_devices=["cuda", "cpu"],
        dtype=str(dtype).removeprefix("torch."),
    )
    metadata = ModelMetadata(
        name=name,
        description=description,
        references={
            "architecture": ["https://doi.org/10.1063/1.5019779"],
            "implementation": ["pyg_schnet"],
        },
    )
    return AtomisticModel(_module(known).eval(), metadata, capabilities)


def _module(known: Exportable) -> nn.Module:
    """The module behind metatomic's interface; its types exist once metatomic is imported."""
    # TorchScript looks types up among the globals of this file.
    global Labels, TensorBlock, TensorMap, ModelOutput, NeighborListOptions, System
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import ModelOutput, NeighborListOptions, System

    class Energy(nn.Module):
        """See :func:`to_metatomic`."""

        def __init__(self, network: PlainNetwork, cutoff: float) -> None:
            super().__init__()
            self.network = network
            self.neighbors = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)

        def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
            return [self.neighbors]

        def forward(
            self,
            systems: List[System],  # noqa: UP006
            outputs: Dict[str, ModelOutput],  # noqa: UP006
            selected_atoms: Optional[Labels] = None,  # noqa: UP045
        ) -> Dict[str, TensorMap]:  # noqa: UP006
            results: Dict[str, TensorMap] = {}  # noqa: UP006
            types: List[Tensor] = []  # noqa: UP006
            sources: List[Tensor] = []  # noqa: UP006
            targets: List[Tensor] = []  # noqa: UP006
            vectors: List[Tensor] = []  # noqa: UP006
            rows: List[Tensor] = []  # noqa: UP006
            first = 0
            if len(systems) == 0 or len(outputs) == 0:
                return results
            for number, system in enumerate(systems):
                block = system.get_neighbor_list(self.neighbors)
                # The pair (i, j) is a vector from centre i to neighbour j.
                targets.append(block.samples.column("first_atom").to(torch.int64) + first)
                sources.append(block.samples.column("second_atom").to(torch.int64) + first)
                vectors.append(block.values.squeeze(2))
                types.append(system.types.to(torch.int64))
                size = len(system)
                atom = torch.arange(size, device=system.positions.device)
                rows.append(torch.stack([torch.full_like(atom, number), atom], dim=1))
                first += size
            z, where = torch.cat(types), torch.cat(rows)
            distance = torch.linalg.vector_norm(torch.cat(vectors), dim=1)
            x = self.network.features(z, torch.cat(sources), torch.cat(targets), distance)
            if selected_atoms is not None:
                samples = Labels(["system", "atom"], where.to(torch.int32))
                chosen = samples.select(selected_atoms)
                x, z, where = x[chosen], z[chosen], where[chosen]
            if "energy" in outputs:
                energies = self.network.energies(x, z).unsqueeze(1)
                kind = outputs["energy"].sample_kind
                results["energy"] = self.wrap("energy", energies, where, kind, len(systems), x)
            if "feature" in outputs:
                kind = outputs["feature"].sample_kind
                results["feature"] = self.wrap("feature", x, where, kind, len(systems), x)
            return results

        def wrap(
            self, name: str, values: Tensor, where: Tensor, kind: str, systems: int, like: Tensor
        ) -> TensorMap:
            if kind == "atom":
                samples = Labels(["system", "atom"], where.to(torch.int32))
            else:
                numbers = torch.arange(systems, dtype=torch.int32, device=where.device)
                samples = Labels(["system"], numbers.unsqueeze(1))
                sums = torch.zeros(systems, values.size(1), dtype=values.dtype).to(values.device)
                values = sums.index_add(0, where[:, 0], values)
            of = torch.arange(values.size(1), dtype=torch.int32, device=where.device)
            block = TensorBlock(
                values=values.to(like.dtype),
                samples=samples,
                components=torch.jit.annotate(List[Labels], []),  # noqa: UP006
                properties=Labels([name], of.unsqueeze(1)),
            )
            return TensorMap(Labels(["_"], torch.zeros_like(of[:1]).unsqueeze(1)), [block])

    return Energy(known.network, known.cutoff)


__all__ = ["to_metatomic"]
