"""Transforms attach what neighbor_edges finds, and their edges collate."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import get_worker_info
from torch_geometric.data import Batch, Data, InMemoryDataset

import pyg_schnet.graph.prepare as prepare_module
from pyg_schnet.datasets.storage import load_collated, save_collated
from pyg_schnet.graph import PeriodicEdges, RadiusEdges, neighbor_edges, prepare_edges


def crystals():
    generator = torch.Generator().manual_seed(0)
    pbc = [[True, True, True], [True, False, True], [False, False, False]]
    return [
        Data(
            pos=torch.rand(n, 3, generator=generator) * 3,
            cell=(torch.eye(3) * (3 + n))[None],
            pbc=torch.tensor([p]),
        )
        for n, p in zip((1, 4, 3), pbc, strict=True)
    ]


@pytest.mark.parametrize("cutoff", [None, 1.5])
def test_radius_edges_collate_to_the_edges_of_the_batch(cutoff):
    data = [Data(pos=d.pos) for d in crystals()]
    transform = RadiusEdges(cutoff)
    batch = Batch.from_data_list([transform(d) for d in data])
    want, _ = neighbor_edges(batch.pos, cutoff, batch.batch)
    assert torch.equal(batch.edge_index, want)
    assert "edge_index" not in data[0]
    assert torch.equal(transform(Batch.from_data_list(data)).edge_index, want)


def test_periodic_edges_collate_to_the_edges_of_the_batch():
    data = crystals()
    transform = PeriodicEdges(cutoff=4.5)
    batch = Batch.from_data_list([transform(d) for d in data])
    want = neighbor_edges(batch.pos, 4.5, batch.batch, batch.cell, batch.pbc)
    together = transform(Batch.from_data_list(data))
    for given in (batch, together):
        assert torch.equal(given.edge_index, want[0])
        assert torch.equal(given.cell_shift, want[1].int())
    assert want[1].any() and batch[1].cell_shift.shape[1] == 3


def test_a_crystal_without_pbc_repeats_along_all_three_vectors():
    data = crystals()[1]
    all_three = PeriodicEdges(4.5)(Data(pos=data.pos, cell=data.cell))
    want = neighbor_edges(data.pos, 4.5, cell=data.cell, pbc=[True] * 3)
    assert torch.equal(all_three.edge_index, want[0])
    assert torch.equal(all_three.cell_shift, want[1].int())


def test_the_backend_of_radius_edges_is_heeded():
    with pytest.raises(ValueError, match="'vesin' needs a cutoff"):
        RadiusEdges(None, backend="vesin")(crystals()[0])


@pytest.mark.parametrize("backend", ["images", "vesin"])
def test_the_backend_of_periodic_edges_is_heeded(backend):
    with pytest.raises(ValueError, match="backend must be one of auto"):
        PeriodicEdges(backend="none of them")(crystals()[0])
    for data in crystals():
        found = PeriodicEdges(4.5, backend)(data)
        want = PeriodicEdges(4.5)(data)
        assert torch.equal(found.edge_index, want.edge_index)
        assert torch.equal(found.cell_shift, want.cell_shift)


def test_stored_edges_come_back_and_collate(tmp_path):
    data = [PeriodicEdges(4.5)(d) for d in crystals()]
    assert data[0].cell_shift.dtype == torch.int32
    collated, slices = InMemoryDataset.collate(data)
    save_collated(collated, slices, tmp_path / "edges.safetensors", {})
    dataset = InMemoryDataset(None)
    dataset._data, dataset.slices, _ = load_collated(tmp_path / "edges.safetensors")
    for stored, given in zip(dataset, data):
        assert torch.equal(stored.edge_index, given.edge_index)
        assert torch.equal(stored.cell_shift, given.cell_shift)
    batch = Batch.from_data_list(list(dataset)[::-1])
    want = neighbor_edges(batch.pos, 4.5, batch.batch, batch.cell, batch.pbc)
    assert batch.cell_shift.dtype == torch.int32
    assert torch.equal(batch.edge_index, want[0]) and torch.equal(batch.cell_shift, want[1].int())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["alike", "two dtypes", "no pbc"])
def test_many_structures_get_the_edges_of_the_transform(kind, num_workers, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", 4)
    structures = crystals() * 3
    if kind == "two dtypes":
        structures[1].pos = structures[1].pos.double()
    if kind == "no pbc":
        structures = [Data(pos=d.pos, cell=d.cell) for d in structures]
    found = prepare_edges(structures, 4.5, num_workers)
    assert "edge_index" not in structures[0] and found[0].pos is structures[0].pos
    for given, want in zip(found, [PeriodicEdges(4.5)(d) for d in structures], strict=True):
        for key in ("edge_index", "cell_shift"):
            assert torch.equal(given[key], want[key]) and given[key].dtype == want[key].dtype
            # Nothing of the neighbours' hangs on to it.
            assert given[key].untyped_storage().nbytes() == want[key].nbytes
    assert prepare_edges([], 4.5, num_workers) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_structure_without_edges_for_a_reason_is_named(num_workers, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", 4)
    structures = crystals() * 3
    structures[5] = Data(pos=torch.zeros(1, 3), cell=torch.zeros(1, 3, 3), material_id="mp-5")
    with pytest.raises(ValueError, match=r"structure 5 \(mp-5\): cell of graph 0 is singular"):
        prepare_edges(structures, 4.5, num_workers)
    structures[5] = Data(pos=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="structure 5: PeriodicEdges.* needs data.cell"):
        prepare_edges(structures, 4.5, num_workers)
    with pytest.raises(ValueError, match="num_workers must be 0 or more, got -1"):
        prepare_edges(structures, 4.5, -1)


class Slow(list):
    """Structures that say when a worker has begun with them, and then take their time."""

    def __getitem__(self, row):
        if get_worker_info() is not None:
            print("begun", flush=True)
            time.sleep(60)
        return super().__getitem__(row)


def _is_gone(group, patience=20.0):
    """Whether no process of the group is left; those that are ending are waited for."""
    last = time.monotonic() + patience
    while time.monotonic() < last:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups on this system")
def test_an_interrupt_leaves_no_worker_behind():
    script = (
        # A background job of a shell ignores interrupts, and so would what it starts.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from test_transforms import Slow, crystals; from pyg_schnet.graph import prepare_edges; "
        "prepare_edges(Slow(crystals() * 400), num_workers=2)"
    )
    run = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=os.path.dirname(__file__),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # Both workers begin, and their lines may run together.
        assert run.stdout.readline().startswith("begun")
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        _, error = run.communicate(timeout=30)
        assert "KeyboardInterrupt" in error and run.returncode != 0
        assert _is_gone(run.pid)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()


def test_missing_data_are_named():
    with pytest.raises(ValueError, match=r"RadiusEdges.* needs data.pos"):
        RadiusEdges()(Data(z=torch.ones(1)))
    with pytest.raises(ValueError, match=r"PeriodicEdges.* needs data.cell"):
        PeriodicEdges()(Data(pos=torch.zeros(1, 3)))


def test_representations_show_the_arguments():
    assert repr(RadiusEdges(None)) == "RadiusEdges(cutoff=None, backend='auto')"
    assert repr(PeriodicEdges(6.0)) == "PeriodicEdges(cutoff=6.0)"
    # By which stored edges are known, whoever found them and however the number was written.
    assert repr(PeriodicEdges(6, backend="ase")) == "PeriodicEdges(cutoff=6.0)"
