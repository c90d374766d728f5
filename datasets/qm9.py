"""QM9: 130,831 small organic molecules with structures and properties from density functionals."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Data
from tqdm import tqdm

from pyg_schnet.datasets import qm9_raw
from pyg_schnet.datasets.base import Source, StoredDataset
from pyg_schnet.datasets.qm9_columns import to_columns
from pyg_schnet.datasets.qm9_properties import (
    PROPERTIES,
    SCALARS,
    Property,
    atom_reference,
    check_target,
)
from pyg_schnet.datasets.sources import download

NUM_MOLECULES = 130_831
ARCHIVE = "dsgdb9nsd.xyz.tar.bz2"
ARCHIVE_URL = "https://ndownloader.figshare.com/files/3195389"
# As figshare states it (86,144,227 bytes); the same stands in PaddleMaterials' and hippynn's code.
ARCHIVE_CHECKSUM = "md5:ad1ebd51ee7f5b3a6e32e974e5d54012"


class QM9(StoredDataset):
    """QM9: 130,831 molecules of up to nine C, N, O, F atoms, with 15 properties of B3LYP.

    Per molecule (a :class:`torch_geometric.data.Data`; N atoms):

    ==================  =====================  ==================================================
    ``z``               (N,) int64             atomic numbers
    ``pos``             (N, 3) float32         positions, Å
    ``charges``         (N,) float32           Mulliken charges, e
    ``mu``, ``U0``...   (1,) float64           each of :attr:`properties`, in its unit there
    ``polarizability``  (1, 3, 3) float64      tensor, Bohr^3; NaN from the original archive,
                                               which has its mean alone (``alpha``)
    ``y``               (1, T) float64         the targets asked for
    ``smiles``          str                    SMILES the molecule was made from
    ``idx``             (1,) int64             row in the original files: the number in
                                               dsgdb9nsd_000001.xyz less one, so published
                                               splits apply
    ==================  =====================  ==================================================

    Energies are eV and stay float64: in float32 a total energy of -11000 eV is rounded by 1 meV.

    The data is looked for in this order: ``raw``; the installed ``qm9pack`` package; the original
    archive, in ``root/raw`` or from figshare. It is processed once, into one file under
    ``root/processed``. The 3,054 molecules that the authors call uncharacterized are left out.

    Ramakrishnan, Dral, Rupp and von Lilienfeld, Sci. Data 1, 140022 (2014). Differs from PyG's
    class of the same name: named targets, energies in float64, no bonds, none of RDKit.

    Args:
        root: Folder for what is downloaded and processed.
        target: Name or names for ``y``, among :attr:`properties`; None: the 15 of the original
            files in the order of :attr:`properties` (or the ``y`` that pre_transform made).
        raw: Folder of dsgdb9nsd_*.xyz files, or their archive dsgdb9nsd.xyz.tar.bz2 (also .tar,
            .tar.gz).
        transform: Applied to each molecule at every access.
        pre_transform: Applied once, before the molecules are stored.
        pre_filter: Only molecules for which this is true are stored.
        force_reload: Process anew, though there is a processed file.

    Raises:
        ValueError: if a target is unknown, or a file is damaged or malformed.
        FileNotFoundError: if ``raw`` does not exist, or there is no source of the data.

    >>> QM9.properties["U0"].unit, QM9.properties["alpha"].is_extensive
    ('eV', True)
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
        names = [target] if isinstance(target, str) else list(SCALARS if target is None else target)
        if not names:
            raise ValueError(f"target=[] names nothing; there are {', '.join(PROPERTIES)}")
        self.targets = [check_target(name) for name in names]
        super().__init__(
            root,
            raw,
            transform=transform,
            pre_transform=pre_transform,
            pre_filter=pre_filter,
            force_reload=force_reload,
        )
        if given or "y" not in self._data:
            self._set_y()

    @staticmethod
    def atomref(target: str) -> Tensor | None:
        """Values of the separate atoms, by atomic number, in the target's unit.

        Args:
            target: One of :attr:`properties`.

        Returns:
            (100, 1) float64 for U0, U, H, G, Cv and zpve; else None.

        >>> QM9.atomref("Cv")[6].item()
        2.981
        """
        return atom_reference(target)

    @property
    def raw_file_names(self) -> list[str]:
        """The original archive, if it is downloaded."""
        return [ARCHIVE]

    @property
    def processed_file_names(self) -> list[str]:
        """The one file that everything is read from."""
        return ["qm9.safetensors"]

    def read(self) -> Source:
        """Reads the source that is found first; warns if it is not whole."""
        source, molecules = self._find_source()
        bar = tqdm(molecules, "QM9", NUM_MOLECULES, unit=" molecules", disable=None)
        columns = to_columns(bar)
        count = len(columns.smiles)
        if count != NUM_MOLECULES:
            warnings.warn(
                f"{source} holds {count} of the {NUM_MOLECULES} molecules of QM9; only they are "
                f"in this data set",
                stacklevel=2,
            )
        by_molecule = torch.arange(count + 1)
        data = Data(**columns.tensors, smiles=columns.smiles)
        slices = dict.fromkeys((*columns.tensors, "smiles"), by_molecule)
        slices |= dict.fromkeys(("z", "pos", "charges"), columns.bounds)
        return Source(source, data, slices)

    def _find_source(self) -> tuple[str, Iterable[qm9_raw.Molecule]]:
        if self.raw is not None:
            return self._raw_name(), qm9_raw.read_xyz(self.raw)
        folder = qm9_raw.find_qm9pack()
        if folder is not None:
            return "qm9pack", qm9_raw.read_qm9pack(folder)
        try:
            archive = download(ARCHIVE_URL, self.raw_paths[0], ARCHIVE_CHECKSUM)
        except ConnectionError as error:
            raise FileNotFoundError(
                f"QM9 is not on this computer and could not be downloaded ({error}): "
                f"'pip install qm9pack', or pass raw= with the archive {ARCHIVE} or the folder of "
                f"its xyz files, or connect to the internet and try again"
            ) from error
        return "figshare", qm9_raw.read_xyz(archive)

    def _set_y(self) -> None:
        missing = [name for name in self.targets if name not in self._data]
        if missing:
            raise ValueError(
                f"pre_transform removed {', '.join(missing)}: keep it, or choose another target"
            )
        self._data.y = torch.stack([self._data[name] for name in self.targets], dim=1)
        self.slices["y"] = self.slices[self.targets[0]]
