"""Crystals of the Materials Project: by its interface, from frozen snapshots, from CIFs."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from tqdm import tqdm

from pyg_schnet.datasets.base import Source, StoredDataset
from pyg_schnet.datasets.crystal_cif import cif_readers
from pyg_schnet.datasets.crystal_columns import Skipped, collect, summary, write_skipped
from pyg_schnet.datasets.crystal_properties import KNOWN, CrystalProperty, canonical
from pyg_schnet.datasets.crystal_sources import Row, read_rows
from pyg_schnet.datasets.materials_api import Query

_TABLES = ("*.json", "*.json.*", "*.zip", "*.csv", "*.csv.*", "*.npz")


class MaterialsProject(StoredDataset):
    r"""Crystals with formation energies, of the Materials Project or of any table of CIFs.

    Per crystal (a :class:`torch_geometric.data.Data`; N atoms):

    =============================  ===================  ===========================================
    ``z``                          (N,) int64           atomic numbers
    ``pos``                        (N, 3) float32       positions, Å, perhaps outside the cell
    ``cell``                       (1, 3, 3) float32    rows are lattice vectors, Å
    ``pbc``                        (1, 3) bool          true but for snapshots that say otherwise
    ``material_id``                str                  ``mp-149``, or as the table has it
    ``formation_energy_per_atom``  (1,) float64         eV/atom
    ``energy_above_hull``          (1,) float64         eV/atom
    ``band_gap``                   (1,) float64         eV
    others                         (1,) float64         each further column of numbers
    ``y``                          (1, T) float64       the targets asked for
    =============================  ===================  ===========================================

    Properties are those that the source has, :attr:`properties`; NaN where one is unknown. Edges
    are not stored: :class:`pyg_schnet.graph.PeriodicEdges` is their transform.

    Sources, told by name and content:

    - the Materials Project itself, by mp-api and with your key: summary documents in chunks of 500
      in ``root/raw``. A call after a failure goes on where it stopped; finished chunks are not
      asked for again, not by ``force_reload`` either;
    - frozen snapshots: a list of objects with ``material_id``, ``structure`` (CIF or pymatgen
      dictionary) and numbers, as ``mp.2018.6.1.json`` of MEGNet; matbench's ``index``, ``columns``,
      ``data``, as ``matbench_mp_e_form.json.gz``. Read as streams; also .gz, .bz2, .xz, .zip;
    - a CSV with a column ``cif``; a folder with ``train.csv``, ``val.csv``, ``test.csv`` (MP-20 of
      CDVAE), which become splits; a folder of ``id.cif`` files with ``id_prop.csv`` (CGCNN) or
      another table of their targets; ``.npz`` with n_atoms, numbers, frac_coords, cell.

    Left out, with a warning that counts and names them and a complete list in
    ``root/processed/skipped.csv``: what cannot be read, has no cell or one without volume, sites
    of fractional occupancy, atoms on one point (within 0.1 Å), what is no element up to Z = 99, and
    crystals in which an atom has no neighbour within ``cutoff``, as in the paper. Oxidation states
    are dropped: Fe3+ is Fe. Crystals without a finite target are left out when a target is asked
    for, and stay in the processed file.

    Labels of different releases must not be mixed: they differ by tens of meV/atom.

    Jain et al., APL Mater. 1, 011002 (2013); used in Schütt et al., J. Chem. Phys. 148, 241722
    (2018), section IV B. MEGNet: Chen et al., Chem. Mater. 31, 3564 (2019). Matbench: Dunn et al.,
    npj Comput. Mater. 6, 138 (2020). CGCNN: Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018).
    MP-20: Xie et al., CDVAE, ICLR (2022). The data of the Materials Project are CC-BY-4.0.

    Args:
        root: Folder for what is downloaded and processed.
        target: Name or names for ``y``, among :attr:`properties`, also as ``e_form``,
            ``e_above_hull``, ``gap pbe``; None: no ``y``, and no crystal is left out for one.
        raw: A file or folder, see above. None: such a file in ``root/raw``, else the Materials
            Project.
        source: ``"api"`` to ask the Materials Project whatever is in ``root/raw``; or the same as
            ``raw``.
        cutoff: Å, for ``isolated``.
        isolated: ``"drop"`` or ``"keep"`` crystals in which an atom has no neighbour.
        search: Criteria for the Materials Project, as arguments of mp-api's
            ``MPRester.materials.summary.search``: ``{"elements": ["O"], "energy_above_hull":
            (0, 0.1)}``, ``{"material_ids": ["mp-149"]}``. None: all that is not deprecated.
        api_key: Your key; None: of the environment variable MP_API_KEY or pymatgen's settings.
        num_workers: Processes for CIFs that need pymatgen, 1 to 10 ms each; 0: none but this one. A
            script that gives more needs ``if __name__ == "__main__":``, as for PyTorch's loaders.
        split: Only the crystals of this split.
        transform: Applied to each crystal at every access.
        pre_transform: Applied once, before the crystals are stored.
        pre_filter: Only crystals for which this is true are stored.
        force_reload: Process anew, though there is a processed file.

    Raises:
        ValueError: if a target is unknown or has no finite value, a file is damaged as a whole,
            nothing is left, or there is no key.
        FileNotFoundError: if ``raw`` does not exist.
        ConnectionError: if the Materials Project cannot be asked; what arrived is kept.
        ImportError: if mp-api, or for some CIFs pymatgen, is not installed.

    >>> import pathlib, tempfile
    >>> from ase.build import bulk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("Fe", "Cu"):
    ...         bulk(name).write(f"{folder}/{name}.cif")
    ...     _ = pathlib.Path(folder, "id_prop.csv").write_text("Fe,0.0\nCu,0.1\n")
    ...     data = MaterialsProject(f"{folder}/root", raw=folder)
    >>> data[1].material_id, data[1].z.tolist(), data[1].y.tolist(), data[1].cell.shape
    ('Cu', [29], [[0.1]], torch.Size([1, 3, 3]))
    """

    noun = "crystals"
    _membership: Tensor | None  # set by StoredDataset

    def __init__(
        self,
        root: str | Path,
        target: str | Sequence[str] | None = "formation_energy_per_atom",
        raw: str | Path | None = None,
        source: str | Path | None = None,
        cutoff: float = 5.0,
        isolated: str = "drop",
        *,
        search: Mapping[str, Any] | None = None,
        api_key: str | None = None,
        num_workers: int = 0,
        split: str | None = None,
        transform: Callable[[Data], Data] | None = None,
        pre_transform: Callable[[Data], Data] | None = None,
        pre_filter: Callable[[Data], bool] | None = None,
        force_reload: bool = False,
    ) -> None:
        if isolated not in ("drop", "keep"):
            raise ValueError(f"isolated={isolated!r} must be 'drop' or 'keep'")
        if not 0 < cutoff < float("inf"):
            raise ValueError(f"cutoff={cutoff} must be positive and finite (Å)")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers} must be 0 or more")
        names = [target] if isinstance(target, str) else list(target or ())
        if target is not None and not names:
            raise ValueError("target=[] names nothing: name a property, or pass None")
        self.targets = [canonical(name) for name in names]
        self._asks = source == "api"
        if source is not None and not self._asks:
            if raw is not None:
                raise ValueError(f"raw={raw} and source={source!r} are given: choose one")
            raw = source
        elif self._asks and raw is not None:
            raise ValueError(f"raw={raw} is not read with source='api': choose one")
        if search is not None and raw is not None:
            raise ValueError(f"search= is for the Materials Project and raw={raw} is given")
        self.cutoff, self.isolated = float(cutoff), isolated
        self._search, self._num_workers = search, num_workers
        self._api_key = api_key
        try:
            super().__init__(
                root,
                raw,
                transform=transform,
                pre_transform=pre_transform,
                pre_filter=pre_filter,
                force_reload=force_reload,
            )
        finally:
            self._api_key = None  # in no copy and no pickle of this data set
        if self.targets:
            self._set_y()
        if split is not None:
            self._indices: Sequence[int] | None = self.split(split).tolist()

    @property
    def properties(self) -> dict[str, CrystalProperty]:
        """The properties of each crystal, with their units, as far as they are known."""
        return {
            name: KNOWN.get(name, CrystalProperty())
            for name, bounds in self.slices.items()
            if isinstance(values := self._data[name], Tensor)
            and values.dtype == torch.float64
            and values.shape == (len(bounds) - 1,)
        }

    @property
    def raw_file_names(self) -> list[str]:
        """None of a fixed name."""
        return []

    @property
    def processed_file_names(self) -> list[str]:
        """The one file that everything is read from."""
        return ["materials_project.safetensors"]

    def settings(self) -> dict[str, str]:
        """What is left out, and what the Materials Project was asked."""
        return {
            "isolated": self.isolated,
            "cutoff": str(self.cutoff) if self.isolated == "drop" else "any",
            "search": json.dumps(self._search, sort_keys=True, default=str),
        }

    def read(self) -> Source:
        """Reads and checks all crystals of the source; warns of those that are left out."""
        name, rows = self._find_source()
        cutoff = self.cutoff if self.isolated == "drop" else None
        bar = tqdm(rows, "crystals", unit=" crystals", disable=None)
        with cif_readers(self._num_workers) as readers:
            try:
                found = collect(bar, readers, cutoff, self.targets, name)
            finally:
                bar.close()
        self._report(found.skipped, len(found.slices["cell"]) - 1, name)
        return Source(name, found.data, found.slices, found.splits)

    def _find_source(self) -> tuple[str, Iterator[Row]]:
        if self.raw is not None:
            return self._raw_name(), read_rows(self.raw, self.targets)
        folder = Path(self.raw_dir)
        if not self._asks and self._search is None:
            tables = [path for pattern in _TABLES for path in sorted(folder.glob(pattern))]
            if len(tables) == 1:
                return tables[0].name, read_rows(tables[0], self.targets)
            if tables:
                names = {path.name for path in tables}
                if {"train.csv", "test.csv"} <= {name.removesuffix(".gz") for name in names}:
                    return "MP-20", read_rows(folder, self.targets)
                raise ValueError(
                    f"{folder} holds {', '.join(sorted(names))}: pass raw= with the one to read"
                )
        query = Query(folder, self.targets, self._search)
        query.fetch(self._api_key)
        return "Materials Project", query.rows()

    def _report(self, skipped: list[Skipped], kept: int, name: str) -> None:
        listing = Path(self.processed_dir) / "skipped.csv"
        write_skipped(skipped, listing)
        if skipped:
            warnings.warn(
                f"{len(skipped)} of {kept + len(skipped)} crystals of {name} are left out: "
                f"{summary(skipped)}; all are in {listing}",
                stacklevel=2,
            )

    def _set_y(self) -> None:
        properties = self.properties
        if unknown := [name for name in self.targets if name not in properties]:
            raise ValueError(
                f"target={unknown[0]!r} is no property of these crystals; there "
                f"{'are ' + ', '.join(properties) if properties else 'are none'} (with "
                f"force_reload=True, those of another source)"
            )
        y = torch.stack([self._data[name] for name in self.targets], dim=1)
        finite = y.isfinite().all(dim=1)
        if not finite.any():
            raise ValueError(
                f"no crystal has a finite {' and '.join(self.targets)}: choose another target"
            )
        self._data.y, self.slices["y"] = y, self.slices[self.targets[0]]
        if not finite.all():
            self._leave_out(finite)

    def _leave_out(self, kept: Tensor) -> None:
        """Not by indices: training takes the whole of a data set."""
        ids, missing = self._data.material_id, (~kept).nonzero()[:, 0].tolist()
        what = f"no finite {' and '.join(self.targets)}"
        skipped = [Skipped(ids[k], what) for k in missing]
        name = re.sub(r"[^\w.-]", "_", "_".join(self.targets))
        listing = Path(self.processed_dir) / f"skipped_{name}.csv"
        write_skipped(skipped, listing)
        warnings.warn(
            f"{len(skipped)} of {len(kept)} crystals are left out: {summary(skipped)}; all are in "
            f"{listing}",
            stacklevel=3,
        )
        rows = kept.nonzero()[:, 0].tolist()
        selected: dict[int, tuple[Tensor, Tensor]] = {}
        for key, bounds in self.slices.items():
            if id(bounds) not in selected:
                sizes = bounds.diff()
                ends = torch.cat([bounds.new_zeros(1), sizes[kept].cumsum(0)])
                selected[id(bounds)] = torch.repeat_interleave(kept, sizes), ends
            mask, ends = selected[id(bounds)]
            value = self._data[key]
            if isinstance(value, Tensor):
                dim = self._data.__cat_dim__(key, value) or 0
                self._data[key] = value.index_select(dim, mask.nonzero()[:, 0])
            else:
                self._data[key] = [value[k] for k in rows]
            self.slices[key] = ends
        if "num_nodes" in self._data:
            counts = self._data._store._num_nodes
            self._data._store._num_nodes = [counts[k] for k in rows]
        if self._membership is not None:
            self._membership = self._membership[kept]
