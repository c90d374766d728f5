"""Files of MD17, rMD17 and the coupled-cluster sets: names, where they are, and their splits."""

import contextlib
import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pyg_schnet.datasets.sources import (
    check_zip,
    download,
    in_brief,
    is_of_disk,
    open_archive_members,
)

# Of sGDML's server; both addresses lead there.
SGDML_URLS = (
    "http://www.quantum-machine.org/gdml/data/npz/{}",
    "https://sgdml.org/secure_proxy.php?file=data/npz/{}",
)
FIGSHARE_URL = "https://ndownloader.figshare.com/files/{}"

# rMD17 as one archive (1.07 GB), of version 3 of figshare's article 12672038; two public projects
# give this SHA-256 (load-atoms its first digits), three more the MD5 that figshare states.
RMD17_ARCHIVE = "rmd17.tar.bz2"
RMD17_ARCHIVE_URLS = (
    FIGSHARE_URL.format(23950376),
    "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2?download=1",
)
RMD17_ARCHIVE_CHECKSUM = "sha256:cddeea2ec2c4b22a9de16a9a65a3eeedac5b29da9c99c20bbff0153912bf922b"
# The same as a file per molecule (67 to 175 MB), of a later version of that article: numbers there,
# and the MD5 that figshare states.
RMD17_FILES = {
    "rmd17_aspirin.npz": (62265757, "md5:17fd6fb69066888613f7e16b358a7553"),
    "rmd17_azobenzene.npz": (62265754, "md5:be79df918468eb3579aa73a0becf7390"),
    "rmd17_benzene.npz": (62265739, "md5:18c9242bc90fbf28215f6dd81e650f16"),
    "rmd17_ethanol.npz": (62265733, "md5:eb837fb8deb27d4e0d52f71a03aff776"),
    "rmd17_malonaldehyde.npz": (62265736, "md5:cdc1d70c0c34062ddde6e5071eb6fe21"),
    "rmd17_naphthalene.npz": (62265751, "md5:0efba19c9907e3852318b1e6008b3b9e"),
    "rmd17_paracetamol.npz": (62265760, "md5:ba10784f7b67635427085f6d7ec2dd97"),
    "rmd17_salicylic.npz": (62265748, "md5:900fedf242da438400fa4293348d7dd1"),
    "rmd17_toluene.npz": (62265742, "md5:0f2913d51f8149c90ab28d697a076f64"),
    "rmd17_uracil.npz": (62265745, "md5:992a4479c28a07e0cce6da964805be31"),
}
RMD17_SPLITS = "rmd17_splits.zip"
RMD17_SPLITS_URL = FIGSHARE_URL.format(62265763)

SPLITS = tuple(f"{part}_{k:02d}" for k in range(1, 6) for part in ("train", "test"))


class Molecule(NamedTuple):
    """A molecule of the sets: its formula, and its files; None where a set has not got it."""

    formula: str
    dft: tuple[str, ...]  # today's name first, then earlier ones
    revised: str | None = None
    ccsd_t: str | None = None
    ccsd: str | None = None


MOLECULES = {
    "benzene": Molecule(
        "C6H6",
        ("md17_benzene2017.npz", "benzene2017_dft.npz", "benzene_old_dft.npz"),
        "rmd17_benzene.npz",
        "benzene_ccsd_t.zip",
    ),
    "uracil": Molecule("C4H4N2O2", ("md17_uracil.npz", "uracil_dft.npz"), "rmd17_uracil.npz"),
    "naphthalene": Molecule(
        "C10H8", ("md17_naphthalene.npz", "naphthalene_dft.npz"), "rmd17_naphthalene.npz"
    ),
    "aspirin": Molecule(
        "C9H8O4",
        ("md17_aspirin.npz", "aspirin_dft.npz"),
        "rmd17_aspirin.npz",
        ccsd="aspirin_ccsd.zip",
    ),
    "salicylic acid": Molecule(
        "C7H6O3", ("md17_salicylic.npz", "salicylic_dft.npz"), "rmd17_salicylic.npz"
    ),
    "malonaldehyde": Molecule(
        "C3H4O2",
        ("md17_malonaldehyde.npz", "malonaldehyde_dft.npz"),
        "rmd17_malonaldehyde.npz",
        "malonaldehyde_ccsd_t.zip",
    ),
    "ethanol": Molecule(
        "C2H6O1",
        ("md17_ethanol.npz", "ethanol_dft.npz"),
        "rmd17_ethanol.npz",
        "ethanol_ccsd_t.zip",
    ),
    "toluene": Molecule(
        "C7H8",
        ("md17_toluene.npz", "toluene_dft.npz"),
        "rmd17_toluene.npz",
        "toluene_ccsd_t.zip",
    ),
    "paracetamol": Molecule("C8H9N1O2", ("paracetamol_dft.npz",), "rmd17_paracetamol.npz"),
    "azobenzene": Molecule("C12H10N2", ("azobenzene_dft.npz",), "rmd17_azobenzene.npz"),
    "benzene 2018": Molecule("C6H6", ("benzene2018_dft.npz",)),
}
_ALIASES = {
    "salicylic": "salicylic acid",
    "benzene2017": "benzene",
    "benzene 2017": "benzene",
    "benzene2018": "benzene 2018",
    "benzene fhi-aims": "benzene 2018",
}


def find_names(molecule: str, revised: bool, level: str) -> tuple[str, tuple[str, ...]]:
    """The formula of a molecule and the names that its file may have; today's first.

    Raises:
        ValueError: if there is no such molecule, or not in the set asked for.

    >>> find_names("Salicylic_acid", True, "dft")
    ('C7H6O3', ('rmd17_salicylic.npz',))
    """
    key = molecule.lower().replace("_", " ").strip()
    key = _ALIASES.get(key, key)
    if level not in ("dft", "ccsd(t)", "ccsd"):
        raise ValueError(f"level={level!r} must be 'dft', 'ccsd(t)' or 'ccsd'")
    if revised and level != "dft":
        raise ValueError(f"revised=True is DFT, and level={level!r}: choose one of the two")
    field = "revised" if revised else {"dft": "dft", "ccsd(t)": "ccsd_t", "ccsd": "ccsd"}[level]
    if key not in MOLECULES or getattr(MOLECULES[key], field) is None:
        there = [name for name, entry in MOLECULES.items() if getattr(entry, field) is not None]
        which = "revised" if revised else f"{level.upper()} set of"
        raise ValueError(
            f"molecule={molecule!r} is not in the {which} MD17; there are {', '.join(there)}"
        )
    found = getattr(MOLECULES[key], field)
    return MOLECULES[key].formula, (found,) if isinstance(found, str) else found


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first file of these names in a folder or below it; archives that hold it count too."""
    for name in names:
        for path in (folder / name, *sorted(folder.rglob(name))):
            if path.is_file():
                return path
        if name.endswith(".zip"):
            parts = [name.replace(".zip", f"-{part}.npz") for part in ("train", "test")]
            for path in sorted(folder.rglob(parts[0])):
                if path.with_name(parts[1]).is_file():
                    return path.parent
    archive = folder / RMD17_ARCHIVE
    return archive if names[0] in RMD17_FILES and archive.is_file() else None


def fetch(name: str, folder: Path) -> Path:
    """Downloads a file from the first of its servers that gives it; splits of rMD17 along with it.

    Raises:
        ConnectionError: if none does.
        ValueError: if what came is not what was published.
    """
    if name not in RMD17_FILES:
        return _first([url.format(name) for url in SGDML_URLS], folder / name, None)
    number, checksum = RMD17_FILES[name]
    try:
        path = _first([FIGSHARE_URL.format(number)], folder / name, checksum)
    except (ConnectionError, ValueError) as error:
        # All molecules in one: larger, but at a second place.
        try:
            return _first(RMD17_ARCHIVE_URLS, folder / RMD17_ARCHIVE, RMD17_ARCHIVE_CHECKSUM)
        except ConnectionError as second:
            raise ConnectionError(f"{error}; {second}") from second
    with contextlib.suppress(ConnectionError):  # find_splits says so if they are missing
        _first([RMD17_SPLITS_URL], folder / RMD17_SPLITS, None)
    return path


def _first(urls: Sequence[str], path: Path, checksum: str | None) -> Path:
    errors: list[ConnectionError | ValueError] = []
    for url in urls:
        try:
            return download(url, path, _whole_zip if checksum is None else checksum)
        except ConnectionError as error:
            errors.append(error)
        except ValueError as error:
            # A page that says why there is no file is no damaged file.
            wrong = f"{url} gave no {path.suffix} file"
            errors.append(ConnectionError(wrong) if checksum is None else error)
    raise type(errors[-1])("; ".join(map(str, errors))) from errors[-1]


def _whole_zip(path: Path) -> None:
    """Raises ValueError unless a file for which no checksum is published is a zip (npz is one).

    Its directory stands at its end and each of its members has a CRC-32, which is compared when it
    is read: a file that is cut off or damaged does not pass for a whole one.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name} is no zip file")


def open_parts(path: Path, name: str) -> Iterator[tuple[str, str, BinaryIO | None]]:
    """The npz files to read, of a file, folder or archive.

    Yields:
        Name of the split ("train", "test", or "" where there is one file), words that name the
        file, and its content if it is in an archive.

    Raises:
        ValueError: if the archive is damaged or does not hold the file.
    """
    if path.is_dir():
        for part in ("train", "test"):
            yield part, str(path / name.replace(".zip", f"-{part}.npz")), None
    elif path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                check_zip(archive, path)
                for part in ("train", "test"):
                    members = [
                        entry
                        for entry in archive.namelist()
                        if entry.endswith(f"-{part}.npz") and not entry.startswith("__MACOSX")
                    ]
                    if len(members) != 1:
                        raise ValueError(
                            f"{path} holds {len(members)} files ...-{part}.npz and one is "
                            f"expected: get the file anew"
                        )
                    content = io.BytesIO(archive.read(members[0]))
                    yield part, f"{path}, {members[0]}", content
        except Exception as error:  # zipfile and the decoders raise whatever the bytes lead to
            if is_of_disk(error) or str(path) in str(error):
                raise
            raise ValueError(
                f"{path} is no whole zip file; it is cut off or damaged ({in_brief(error)}): get "
                f"it anew"
            ) from error
    elif path.name.endswith((".tar.bz2", ".tar")):
        for member, content in open_archive_members(path, f"/{name}"):
            yield "", f"{path}, {member}", io.BytesIO(content)
            return
        raise ValueError(f"{path} does not hold {name}: get the archive anew")
    else:
        yield "", str(path), None


def find_splits(path: Path, count: int) -> dict[str, np.ndarray]:
    """The published splits of rMD17 that lie with a file: rows of it, by name.

    They are ``index_train_01.csv`` ... ``index_test_05.csv``, beside the file, in a folder
    ``splits`` or in an archive. Left out, with a warning, if they count frames that the file has
    not got.
    """
    splits: dict[str, np.ndarray] = {}
    for name, place, text in _split_texts(path):
        try:
            rows = np.array([int(float(line)) for line in text.split()], dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{place}: {in_brief(error)}; a row number a line is expected"
            ) from error
        if rows.size == 0 or rows.min() < 0:
            raise ValueError(f"{place}: a row number of 0 or more a line is expected")
        if rows.max() < count:
            splits[name] = rows
        else:
            warnings.warn(
                f"{place} counts row {rows.max()} and the file has {count}: split {name} is left "
                f"out",
                stacklevel=2,
            )
    return {name: splits[name] for name in SPLITS if name in splits}


def _split_texts(path: Path) -> Iterator[tuple[str, str, str]]:
    names = {f"index_{name}.csv": name for name in SPLITS}
    if path.name == RMD17_ARCHIVE:
        for member, content in open_archive_members(path, ".csv"):
            if Path(member).name in names:
                text = content.decode(errors="replace")
                yield names[Path(member).name], f"{path}, {member}", text
        return
    for folder in (path.parent, path.parent / "splits", path.parent.parent / "splits"):
        files = [folder / name for name in names if (folder / name).is_file()]
        if files:
            for file in files:
                yield names[file.name], str(file), file.read_text(errors="replace")
            return
    archive_of_splits = path.parent / RMD17_SPLITS
    if not archive_of_splits.is_file():
        return
    try:
        with zipfile.ZipFile(archive_of_splits) as archive:
            check_zip(archive, archive_of_splits)
            for member in archive.namelist():
                base = member.rpartition("/")[2]
                if base in names and not member.startswith("__MACOSX"):
                    text = archive.read(member).decode(errors="replace")
                    yield names[base], f"{archive_of_splits}, {member}", text
    except Exception as error:  # likewise
        if is_of_disk(error) or str(archive_of_splits) in str(error):
            raise
        raise ValueError(
            f"{archive_of_splits} is cut off or damaged ({in_brief(error)}): delete it or get it "
            f"anew"
        ) from error
