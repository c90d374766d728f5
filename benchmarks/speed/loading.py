"""Batches with edges: ours against PyG's DataLoader, on the same molecules in the same run.

Takes QM9 where it is processed under ``--root``, and random molecules of its size and density.
PyG's ways: a list of Data or an InMemoryDataset, with torch_cluster's radius_graph for every
batch (where that is installed); and a list of Data with the edges made beforehand. Each repeat
takes batches of 4,096 molecules in all from every loader in turn, so that a noisy machine disturbs
all alike; a figure is the median of repeats. All loaders draw the same molecules, and the first
batches are compared.
"""

import importlib.util
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import QM9
from pyg_schnet.graph import RadiusEdges
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.loaders import EpochlessLoader

CUTOFF = 5.0
COUNT = 20_000
BATCH_SIZES = (32, 256)
IN_A_ROW = 4096


class InMemory(InMemoryDataset):
    """Molecules collated into one piece, as PyG's own QM9 keeps them."""

    def __init__(self, molecules: list[Data]) -> None:
        super().__init__()
        self.data, self.slices = self.collate(molecules)


def random_molecules() -> MoleculeTable:
    """Molecules of 12 to 24 atoms on a distorted grid: QM9's sizes and density."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(12, 25, (COUNT,), generator=generator)
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3) * 1.6
    pos = torch.cat([grid[torch.randperm(27, generator=generator)[:n]] for n in sizes.tolist()])
    pos = pos + 0.1 * torch.randn(pos.shape, generator=generator)
    z = torch.tensor([1, 6, 7, 8])[torch.randint(0, 4, (len(pos),), generator=generator)]
    y = torch.rand(COUNT, 1, generator=generator, dtype=torch.float64)
    return MoleculeTable(z, pos, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), y)


def to_list(table: MoleculeTable, rows: Tensor) -> list[Data]:
    """The molecules as one Data each."""
    molecules = []
    for row, first, last in zip(rows, table.ptr[rows], table.ptr[rows + 1], strict=True):
        here = slice(int(first), int(last))
        # Copies: as views of one tensor they would lie side by side.
        one = Data(z=table.z[here].clone(), pos=table.pos[here].clone(), y=table.y[row][None])
        molecules.append(one)
    return molecules


def pyg_batches(data: list[Data] | InMemoryDataset, batch_size: int, search: bool) -> Iterator:
    """PyG's shuffled batches without end, with edges."""
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True, generator=generator)
    while True:
        for batch in loader:
            if search:
                import torch_cluster

                batch.edge_index = torch_cluster.radius_graph(
                    batch.pos, CUTOFF, batch.batch, max_num_neighbors=1000
                )
            yield batch


def compare(ours: Batch, theirs: Batch) -> None:
    """Fail where two batches differ in anything but the order of edges."""
    for name in ("z", "pos", "y", "batch", "ptr"):
        assert torch.equal(ours[name], theirs[name]), name
    edges = [b.edge_index[1] * len(b.z) + b.edge_index[0] for b in (ours, theirs)]
    assert torch.equal(edges[0], edges[1].sort().values), "edges"


def times_of(
    table: MoleculeTable, rows: Tensor, batch_size: int, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of one batch by each way, in turn."""
    plain = to_list(table, rows)
    with_edges = [RadiusEdges(CUTOFF)(one.clone()) for one in plain]
    loaders = {"PyG, list, edges stored": pyg_batches(with_edges, batch_size, search=False)}
    if importlib.util.find_spec("torch_cluster") is not None:
        loaders["PyG, list, edges searched"] = pyg_batches(plain, batch_size, search=True)
        in_memory = InMemory(plain)
        loaders["PyG, in memory, edges searched"] = pyg_batches(in_memory, batch_size, search=True)
    ours = iter(EpochlessLoader(table, rows, batch_size, CUTOFF))
    first = next(ours)
    for loader in loaders.values():
        compare(first, next(loader))
    loaders["ours"] = ours
    times: dict[str, list[float]] = {name: [] for name in loaders}
    in_a_row = IN_A_ROW // batch_size
    for repeat in range(repeats + 1):
        for name, loader in loaders.items():
            start = time.perf_counter()
            for _ in range(in_a_row):
                next(loader)
            if repeat >= 1:
                times[name].append(1e3 * (time.perf_counter() - start) / in_a_row)
    return times


def measure(root: Path = Path("data/qm9"), repeats: int = 20) -> list[dict[str, Any]]:
    """Time batches of 32 and 256 molecules by each way.

    Args:
        root: Where QM9 may lie processed.
        repeats: Turns.
    """
    tables = {"random": random_molecules()}
    if (root / "processed").is_dir():
        tables["QM9"] = MoleculeTable.from_dataset(QM9(root, target="U0"))
    rows = []
    print(f"{'molecules':<12}{'batch':>6}  {'way':<34}{'ms':>9}{'ratio':>8}")
    for source, table in tables.items():
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(table), generator=generator)[:COUNT]
        for batch_size in BATCH_SIZES:
            times = times_of(table, chosen, batch_size, repeats)
            best = statistics.median(times["ours"])
            for name, values in times.items():
                ratios = sorted(v / x for v, x in zip(values, times["ours"], strict=True))
                row = {
                    "molecules": source,
                    "batch_size": batch_size,
                    "way": name,
                    "ms": round(statistics.median(values), 4),
                    "ratio": round(statistics.median(values) / best, 2),
                    "quartiles": (ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]),
                }
                rows.append(row)
                print(f"{source:<12}{batch_size:>6}  {name:<34}{row['ms']:>9.3f}", end="")
                print(f"{row['ratio']:>8.1f}", flush=True)
    return rows
