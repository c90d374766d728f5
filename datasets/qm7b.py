"""QM7b: 7,211 small organic molecules with 14 electronic properties."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch_geometric.data import Data

from pyg_schnet.datasets.base import Source, StoredDataset
from pyg_schnet.datasets.qm7b_raw import GEOMETRIES, PROPERTIES, check_values, read_mat, read_xyz
from pyg_schnet.datasets.qm9_properties import Property
from pyg_schnet.datasets.sources import download

NUM_MOLECULES = 7_211
FILE = "qm7b.mat"
FILE_URL = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/qm7b.mat"
# As DGL's QM7bDataset states it.
FILE_CHECKSUM = "sha1:4102c744bb9d6fd7b40ac67a300e49cd87e28392"


class QM7b(StoredDataset):
    """QM7b: 7,211 molecules of up to seven C, N, O, S, Cl atoms, and 14 properties of each.

    Per molecule (a :class:`torch_geometric.data.Data`; N atoms, hydrogens included, 23 at most):

    =======================  =====================  =============================================
    ``z``                    (N,) int64             atomic numbers
    ``pos``                  (N, 3) float32         positions, Å, relaxed with PBE
    ``ae_pbe0``...           (1,) float64           each of :attr:`properties`, in its unit there
    ``y``                    (1, T) float64         the targets asked for
    ``idx``                  (1,) int64             row in the file
    =======================  =====================  =============================================

    Either of the two published files will do. ``qm7b.mat`` has no positions: they are found from
    the distances in its Coulomb matrices, up to rotation and reflection, which no property here
    and no model of distances can tell; the distances are checked to be those of points in space.
    ``dsgdb7njp.xyz`` has the positions themselves. Properties stand in another order there, and so
    may molecules: ``idx`` counts rows of the file that was read. Atomization energies are negative,
    and converted from the files' kcal/mol by the authors' own factor of 23.045108.

    The data is looked for in this order: ``raw``; ``qm7b.mat`` or ``dsgdb7njp.xyz`` in
    ``root/raw``; then ``qm7b.mat`` is downloaded.

    Montavon et al., New J. Phys. 15, 095003 (2013); Blum and Reymond, J. Am. Chem. Soc. 131, 8732
    (2009). Differs from PyG's class of the same name: atoms and positions, not matrices; named
    targets in float64. The authors' readme swaps the descriptions of the last two properties.

    Args:
        root: Folder for what is downloaded and processed.
        target: Name or names for ``y``, among :attr:`properties`; None: all 14, in their order.
        raw: ``qm7b.mat``, ``dsgdb7njp.xyz`` or its archive ``gdb7-13.zip``, or the folder of one.
        transform: Applied to each molecule at every access.
        pre_transform: Applied once, before the molecules are stored.
        pre_filter: Only molecules for which this is true are stored.
        force_reload: Process anew, though there is a processed file.

    Raises:
        ValueError: if a target is unknown, or a file is damaged or malformed.
        FileNotFoundError: if ``raw`` does not exist, or there is no source of the data.

    >>> QM7b.properties["p_pbe0"].unit, len(QM7b.properties)
    ('Å^3', 14)
    """

    noun = "molecules"
    properties: ClassVar[dict[str, Property]] = PROPERTIES

    def __init__(
        self,
        root: str | Path,
        target: str | Sequence[str] | None = None,
        raw: str | Path | None = None,
        transform: Callable[[Data], Data] | None = None,
        pre_transform: Callable[[Data], Data] | None = None,
        pre_filter: Callable[[Data], bool] | None = None,
        force_reload: bool = False,
    ) -> None:
        given = target is not None
        names = [target] if isinstance(target, str) else list(target or PROPERTIES)
        unknown = [name for name in names if name not in PROPERTIES]
        if unknown or (given and not target):
            raise ValueError(
                f"target {unknown[0] if unknown else target!r} is not in QM7b; there are "
                f"{', '.join(PROPERTIES)}"
            )
        self.targets = names
        super().__init__(
            root,
            raw,
            transform=transform,
            pre_transform=pre_transform,
            pre_filter=pre_filter,
            force_reload=force_reload,
        )
        if given or "y" not in self._data:
            missing = [name for name in names if name not in self._data]
            if missing:
                raise ValueError(
                    f"pre_transform removed {', '.join(missing)}: keep it, or choose another target"
                )
            self._data.y = torch.stack([self._data[name] for name in names], dim=1)
            self.slices["y"] = self.slices[names[0]]

    @property
    def raw_file_names(self) -> list[str]:
        """The file that would be downloaded."""
        return [FILE]

    @property
    def processed_file_names(self) -> list[str]:
        """The one file that everything is read from."""
        return ["qm7b.safetensors"]

    def read(self) -> Source:
        """Reads the source that is found first; warns if it is not whole."""
        name, path = self._find()
        numbers, positions, values = read_mat(path) if path.suffix == ".mat" else read_xyz(path)
        check_values(values, path)
        count = len(values)
        if count != NUM_MOLECULES:
            warnings.warn(
                f"{path} holds {count} of the {NUM_MOLECULES} molecules of QM7b; only they are "
                "in this data set",
                stacklevel=2,
            )
        values = values * np.array([known.factor for known in PROPERTIES.values()])
        data = Data(
            z=torch.from_numpy(np.concatenate(numbers)),
            pos=torch.from_numpy(np.concatenate(positions).astype(np.float32)),
            idx=torch.arange(count),
            **{key: torch.from_numpy(values[:, k].copy()) for k, key in enumerate(PROPERTIES)},
        )
        sizes = torch.tensor([0, *map(len, numbers)], dtype=torch.int64)
        slices = dict.fromkeys(("idx", *PROPERTIES), torch.arange(count + 1))
        slices |= dict.fromkeys(("z", "pos"), sizes.cumsum(0))
        return Source(name, data, slices)

    def _find(self) -> tuple[str, Path]:
        if self.raw is not None:
            if not self.raw.exists():
                raise FileNotFoundError(
                    f"raw={self.raw} does not exist: give {FILE} or {GEOMETRIES}"
                )
            path = _in_folder(self.raw) if self.raw.is_dir() else self.raw
            if path is None:
                raise FileNotFoundError(f"There is neither {FILE} nor {GEOMETRIES} in {self.raw}")
            return self._raw_name(), path
        folder = Path(self.raw_dir)
        path = _in_folder(folder)
        if path is not None:
            return path.name, path
        try:
            return "download", download(FILE_URL, folder / FILE, FILE_CHECKSUM)
        except ConnectionError as error:
            raise FileNotFoundError(
                f"QM7b is not on this computer and could not be downloaded ({error}): put {FILE} "
                f"or {GEOMETRIES} into {folder}, or pass raw= with the file, or connect to the "
                "internet and try again"
            ) from error


def _in_folder(folder: Path) -> Path | None:
    """The file with positions if there is one, else that with matrices."""
    names = (GEOMETRIES, "gdb7-13.zip", FILE)
    return next((folder / name for name in names if (folder / name).is_file()), None)
