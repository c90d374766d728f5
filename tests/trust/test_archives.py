"""Archives that mean harm: bombs, names that lead elsewhere, links; and where they would lead."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
from small_qm9 import write_small_qm9
from trust.damage import told
from trust.specimens import SPECIMENS, iso17_database

from pyg_schnet.datasets import ISO17, MD17, QM9, MaterialsProject, Trajectories, sources
from pyg_schnet.datasets.crystal_files import read_crystals
from pyg_schnet.datasets.iso17_raw import unpack
from pyg_schnet.datasets.sources import open_archive_members

BIG = 4_000_000  # bytes of zeros: 4 kB packed by gzip, some 50 by bzip2
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.fixture(autouse=True)
def a_megabyte_is_much(monkeypatch):
    monkeypatch.setattr(sources, "_ALWAYS_ALLOWED", 1 << 20)


def tar(path, members, compression="gz"):
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, content in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def bomb_of_tar(compression):
    return lambda folder: tar(
        folder / f"bomb.tar.{compression}", {"a.xyz": bytes(BIG)}, compression
    )


def bomb_of_text(name):
    def write(folder):
        text = b'[{"material_id": "' + b"x" * BIG + b'"}]'
        (folder / name).write_bytes(PACK[name.rpartition(".")[2]](text))
        return folder / name

    return write


def bomb_of_zip(name, member):
    def write(folder):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, bytes(BIG))
        return folder / name

    return write


def bomb_of_npz(folder):
    np.savez_compressed(folder / "bomb.npz", R=np.zeros((BIG // 8, 1)), z=np.ones(3))
    return folder / "bomb.npz"


def bomb_of_chunks(folder):
    path = SPECIMENS["materials project answers"].write(folder)
    path.write_bytes(gzip.compress(json.dumps([{"material_id": "x" * BIG}]).encode()))
    return path


BOMBS = {
    "qm9.tar.bz2": (bomb_of_tar("bz2"), lambda p, r: QM9(r, raw=p)),
    "members of a tar.gz": (bomb_of_tar("gz"), lambda p, r: list(open_archive_members(p))),
    "members of a tar.xz": (bomb_of_tar("xz"), lambda p, r: list(open_archive_members(p))),
    "iso17.tar.gz": (bomb_of_tar("gz"), lambda p, r: ISO17(r, "test_other", raw=p)),
    "rmd17.tar.bz2": (bomb_of_tar("bz2"), lambda p, r: MD17(r, revised=True, raw=p)),
    "crystals.json.gz": (bomb_of_text("a.json.gz"), lambda p, r: MaterialsProject(r, raw=p)),
    "crystals.json.xz": (bomb_of_text("a.json.xz"), lambda p, r: MaterialsProject(r, raw=p)),
    "crystals.csv.bz2": (bomb_of_text("a.csv.bz2"), lambda p, r: MaterialsProject(r, raw=p)),
    "crystals.zip": (bomb_of_zip("a.zip", "a.json"), lambda p, r: MaterialsProject(r, raw=p)),
    "structure.json.gz": (bomb_of_text("b.json.gz"), lambda p, r: list(read_crystals(p))),
    "structure.cif.bz2": (bomb_of_text("b.cif.bz2"), lambda p, r: list(read_crystals(p))),
    "frames.extxyz.gz": (bomb_of_text("f.extxyz.gz"), lambda p, r: Trajectories(p, root=r)),
    "md17.zip": (
        bomb_of_zip("ethanol_ccsd_t.zip", "ethanol_ccsd_t-train.npz"),
        lambda p, r: MD17(r, level="ccsd(t)", raw=p),
    ),
    "md17.npz": (bomb_of_npz, lambda p, r: MD17(r, raw=p)),
    "crystals.npz": (bomb_of_npz, lambda p, r: MaterialsProject(r, raw=p)),
    "materials project answers": (
        bomb_of_chunks,
        SPECIMENS["materials project answers"].read,
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_unpacks_to_far_more_than_its_size_is_refused(name, tmp_path):
    write, read = BOMBS[name]
    path = write(tmp_path)
    sentence = told(lambda: read(path, tmp_path / "root"), path.name)
    assert sentence and "unpacks to" in sentence
    assert not [p for p in (tmp_path / "root").rglob("*") if p.is_file()]


def test_what_a_bomb_unpacks_to_is_never_held(tmp_path, monkeypatch):
    """A header of a tar archive may declare 8 GB, and a zip any size; neither is made room for."""
    path = bomb_of_tar("bz2")(tmp_path)
    most = 0
    read = sources._Counted.readinto

    def counted(self, buffer):
        nonlocal most
        most = max(most, self._count)
        return read(self, buffer)

    monkeypatch.setattr(sources._Counted, "readinto", counted)
    assert told(lambda: list(open_archive_members(path)), path.name)
    assert 0 < most <= (1 << 20) + io.DEFAULT_BUFFER_SIZE


def test_data_that_packs_well_is_no_bomb(tmp_path, monkeypatch):
    """The limit is far above what frames, tables and structures shrink to."""
    for name in ("iso17.tar.gz", "trajectory.extxyz.gz", "matbench.json.gz", "crystals.json.zip"):
        specimen = SPECIMENS[name]
        path = specimen.write(tmp_path)
        monkeypatch.setattr(sources, "_ALWAYS_ALLOWED", 0)
        assert (
            told(lambda s=specimen, p=path, n=name: s.read(p, tmp_path / f"root of {n}"), path.name)
            is None
        )


ELSEWHERE = ["../escaped/{}", "../../escaped/{}", "/tmp/escaped/{}", "a/../../../escaped/{}"]


@pytest.mark.parametrize("place", ELSEWHERE)
def test_names_that_lead_out_of_the_folder_are_not_followed(tmp_path, place):
    content = iso17_database(tmp_path).read_bytes()
    root = tmp_path / "one" / "two"
    path = tar(tmp_path / "iso17.tar.gz", {place.format("test_other.db"): content})
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert len(ISO17(root, "test_other", raw=path)) == 3
    assert {p.parent.name for p in root.rglob("test_other.db")} == {"iso17"}
    outside = {p for p in tmp_path.rglob("*") if p.is_file() and root not in p.parents}
    assert outside == before
    assert not (tmp_path.parent / "escaped").exists()

    xyz = write_small_qm9(tmp_path / "xyz", 2)
    members = {place.format(p.name): p.read_bytes() for p in sorted(xyz.iterdir())}
    known = {p for p in tmp_path.rglob("*")}
    read = list(open_archive_members(tar(tmp_path / "qm9.tar", members, ""), ".xyz"))
    assert len(read) == 2
    assert {p for p in tmp_path.rglob("*")} - known == {tmp_path / "qm9.tar"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_archives_are_passed_over(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_text("of the user")
    entry = tarfile.TarInfo("iso17/test_other.db")
    entry.type, entry.linkname = kind, str(secret)
    path = tar(tmp_path / "iso17.tar.gz", {entry: b""})
    with pytest.raises(ValueError, match="has none of"):
        unpack(path, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
    assert list(open_archive_members(path)) == []
    assert secret.read_text() == "of the user"


def test_a_link_in_the_place_of_the_unpacked_folder_is_not_written_through(tmp_path):
    database = iso17_database(tmp_path)
    path = tar(tmp_path / "iso17.tar.gz", {"iso17/test_other.db": database.read_bytes()})
    other = tmp_path / "other"
    other.mkdir()
    (other / "keep").write_text("kept")
    (tmp_path / "unpacked.part").symlink_to(other)
    with pytest.raises(OSError):
        unpack(path, tmp_path / "unpacked")
    assert [p.name for p in other.iterdir()] == ["keep"]
