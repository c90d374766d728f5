"""ISO17: molecular dynamics of 129 isomers of C7O2H10, and its two scenarios."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch_geometric.data import Data
from tqdm import tqdm

from pyg_schnet.datasets.base import Source, StoredDataset
from pyg_schnet.datasets.frames import Frames, join
from pyg_schnet.datasets.iso17_raw import (
    ARCHIVE,
    DATABASES,
    IDS,
    count_frames,
    fetch,
    read_database,
    read_ids,
    unpack,
)

SPLITS = (*DATABASES, *IDS)


class ISO17(StoredDataset):
    """ISO17: 5,000 frames of molecular dynamics of each of 129 isomers of C7O2H10.

    Per frame (a :class:`torch_geometric.data.Data` of 19 atoms):

    ===========  ================  ==============================================================
    ``z``        (19,) int64       atomic numbers; their order differs between isomers
    ``pos``      (19, 3) float32   positions, Å
    ``energy``   (1,) float64      total energy (PBE + TS), eV, about -11,505
    ``forces``   (19, 3) float32   eV/Å
    ``idx``      (1,) int64        row in the database: its id less one
    ===========  ================  ==============================================================

    The splits are the five databases of the archive, and the two lists of frames in the first:

    ================  =======================================================================
    ``reference``     80 % of the frames of 80 % of the isomers: 404,000
    ``train``         those of them to train on
    ``validation``    those of them to choose by
    ``test_within``   the remaining 20 % of the frames of the same isomers
    ``test_other``    frames of the remaining isomers, of which nothing is seen in training
    ``reference_eq``  equilibria of the isomers of ``reference``
    ``test_eq``       equilibria of the other isomers
    ================  =======================================================================

    The paper has two scenarios, see :attr:`scenarios` and :meth:`scenario`.

    Each database is read once, into one file under ``root/processed``; its frames pass through in
    chunks, so memory is that of the numbers (0.4 GB for ``reference``). It is looked for in
    ``raw``; then in the archive in ``root/raw``; then in ``root/raw/iso17``; then it is downloaded.

    Schütt et al., Adv. Neural Inf. Process. Syst. 30 (2017), section 4.3; J. Chem. Phys. 148,
    241722 (2018).

    Args:
        root: Folder for what is downloaded and processed.
        split: One of :attr:`splits`.
        raw: The archive iso17.tar.gz (also .tar), or the folder of its databases, or one database;
            also as SchNetPack rewrites it, with the energy beside the forces.
        transform: Applied to each frame at every access.
        pre_transform: Applied once, before the frames are stored.
        pre_filter: Only frames for which this is true are stored.
        force_reload: Read anew, though there is a processed file.

    Raises:
        ValueError: if there is no such split, or a file is damaged or malformed; the message
            names file and frame.
        FileNotFoundError: if ``raw`` lacks what is needed, or there is no source of the data.

    >>> ISO17.scenarios["other"]
    ('train', 'validation', 'test_other')
    """

    noun: ClassVar[str] = "frames"
    splits: ClassVar[tuple[str, ...]] = SPLITS
    """Names that ``split`` may have."""
    scenarios: ClassVar[Mapping[str, tuple[str, str, str]]] = {
        "within": ("train", "validation", "test_within"),
        "other": ("train", "validation", "test_other"),
    }
    """Training, validation and test split of each scenario of the paper.

    ``within``: other frames of isomers that were trained on. ``other``: isomers never seen.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "reference",
        raw: str | Path | None = None,
        transform: Callable[[Data], Data] | None = None,
        pre_transform: Callable[[Data], Data] | None = None,
        pre_filter: Callable[[Data], bool] | None = None,
        force_reload: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is not in ISO17; there are {', '.join(SPLITS)}")
        self.database = "reference" if split in IDS else split
        super().__init__(
            root,
            raw,
            split if split in IDS else None,
            transform,
            pre_transform,
            pre_filter,
            force_reload,
        )

    @classmethod
    def scenario(
        cls,
        name: str,
        root: str | Path,
        raw: str | Path | None = None,
        transform: Callable[[Data], Data] | None = None,
    ) -> dict[str, StoredDataset]:
        """The three data sets of a scenario: ``train``, ``validation`` and ``test``.

        The first two share their numbers.

        Args:
            name: One of :attr:`scenarios`.
            root: As for the class; ``raw`` and ``transform`` likewise.
            raw: The original files.
            transform: Applied to each frame at every access.

        Raises:
            ValueError: if there is no such scenario.
        """
        if name not in cls.scenarios:
            raise ValueError(
                f"scenario {name!r} is not in ISO17; there are {', '.join(cls.scenarios)}"
            )
        train, validation, test = cls.scenarios[name]
        reference = cls(root, "reference", raw, transform)
        return {
            "train": reference[reference.split(train)],
            "validation": reference[reference.split(validation)],
            "test": cls(root, test, raw, transform),
        }

    @property
    def raw_file_names(self) -> list[str]:
        """The original archive, if it is downloaded."""
        return [ARCHIVE]

    @property
    def processed_file_names(self) -> list[str]:
        """The one file that this split is read from."""
        return [f"iso17_{self.database}.safetensors"]

    def read(self) -> Source:
        """Reads the database of this split, and the lists of ids that go with it."""
        name, folder = self._find_source()
        path = folder if folder.is_file() else folder / f"{self.database}.db"
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} has no {path.name}: raw must be {ARCHIVE}, or the folder that it "
                f"unpacks to, or the database itself"
            )
        count = count_frames(path)
        with tqdm(total=count, desc=self.database, unit=" frames", disable=None) as bar:
            data, slices = join(_counted(read_database(path), bar.update))
        return Source(name, data, slices, self._read_splits(path.parent, data.idx))

    def _read_splits(self, folder: Path, rows: Tensor) -> dict[str, Tensor]:
        if self.database != "reference":
            return {}
        if not all((folder / name).exists() for name in IDS.values()):
            warnings.warn(
                f"{folder} lacks {' or '.join(IDS.values())}: there is no split train, validation",
                stacklevel=2,
            )
            return {}
        splits = {split: read_ids(folder / name, rows) for split, name in IDS.items()}
        if np.intersect1d(splits["train"], splits["validation"]).size:
            raise ValueError(
                f"{folder}: {' and '.join(IDS.values())} have ids in common: get the archive anew"
            )
        return splits

    def _find_source(self) -> tuple[str, Path]:
        """Name of the source, and the folder that has the databases, or one database."""
        unpacked = Path(self.raw_dir, "iso17")
        if self.raw is not None:
            if not self.raw.exists():
                raise FileNotFoundError(f"raw={self.raw} does not exist: name {ARCHIVE}")
            if self.raw.suffix == ".db" or self.raw.is_dir():
                inner = self.raw / "iso17"
                return self._raw_name(), inner if inner.is_dir() else self.raw
            return self._raw_name(), unpack(self.raw, unpacked)
        if Path(self.raw_paths[0]).exists():
            return ARCHIVE, unpack(self.raw_paths[0], unpacked)
        if unpacked.is_dir():
            return ARCHIVE, unpacked
        return "download", fetch(Path(self.raw_paths[0]), unpacked)


def _counted(chunks: Iterator[Frames], update: Callable[[int], object]) -> Iterator[Frames]:
    for chunk in chunks:
        yield chunk
        update(len(chunk.num_atoms))
