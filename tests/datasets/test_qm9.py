import errno
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import QM9, qm9, qm9_raw, storage
from pyg_schnet.datasets.sources import checksum

HARTREE = 27.211386024367243  # eV, ase.units.Hartree

# Four real molecules. Of each: SMILES, elements, positions, charges, then A B C mu alpha homo lumo
# gap r2 zpve U0 U H G Cv as the files have them, and the polarizability tensor.
REAL = {
    1: (
        "C",
        "CHHHH",
        "-0.0126981359 1.0858041578 0.0080009958 0.002150416 -0.0060313176 0.0019761204 "
        "1.0117308433 1.4637511618 0.0002765748 -0.540815069 1.4475266138 -0.8766437152 "
        "-0.5238136345 1.4379326443 0.9063972942",
        "-0.535689 0.133921 0.133922 0.133923 0.133923",
        "157.7118 157.70997 157.70699 0. 13.21 -0.3877 0.1171 0.5048 35.3641 0.044749 -40.47893 "
        "-40.476062 -40.475117 -40.498597 6.469",
        "13.211 0.000 13.211 0.000 0.000 13.211",
    ),
    2: (
        "N",
        "NHHH",
        "-0.0404260543 1.0241077531 0.0625637998 0.0172574639 0.0125452063 -0.0273771593 "
        "0.9157893661 1.3587451948 -0.0287577581 -0.5202777357 1.3435321258 -0.7755426124",
        "-0.707143 0.235712 0.235712 0.23572",
        "293.60975 293.54111 191.39397 1.6256 9.46 -0.257 0.0829 0.3399 26.1563 0.034358 "
        "-56.525887 -56.523026 -56.522082 -56.544961 6.316",
        "10.439 0.000 10.438 0.000 0.000 7.504",
    ),
    3: (
        "O",
        "OHH",
        "-0.0343604951 0.9775395708 0.0076015923 0.0647664923 0.0205721989 0.0015346341 "
        "0.8717903737 1.3007924048 0.0006931336",
        "-0.589706 0.294853 0.294853",
        "799.58812 437.90386 282.94545 1.8511 6.31 -0.2928 0.0687 0.3615 19.0002 0.021375 "
        "-76.404702 -76.401867 -76.400922 -76.422349 6.002",
        "4.492 0.000 8.049 0.000 0.000 6.398",
    ),
    4: (
        "C#C",
        "CCHH",
        "0.5995394918 0. 1. -0.5995394918 0. 1. -1.6616385861 0. 1. 1.6616385861 0. 1.",
        "-0.207019 -0.207019 0.207019 0.207019",
        "0. 35.6100361 35.6100361 0. 16.28 -0.2845 0.0506 0.3351 59.5248 0.026841 -77.308427 "
        "-77.305527 -77.304583 -77.327429 8.574",
        "10.491 0.000 10.491 0.000 0.000 27.863",
    ),
}
PART = pytest.mark.filterwarnings("ignore:.*of the 130831 molecules:UserWarning")


def xyz_text(number, like):
    smiles, elements, pos, charges, scalars, _ = REAL[like]
    numbers = pos.split()
    atoms = [
        "\t".join([element, *numbers[3 * k : 3 * k + 3], charge])
        for k, (element, charge) in enumerate(zip(elements, charges.split(), strict=True))
    ]
    head = "\t".join([f"gdb {number}", *scalars.split(), ""])
    tail = ["1341.307\t1341.3284", f"{smiles}\trelaxed", "InChI=1S/\tInChI=1S/", ""]
    return "\n".join([str(len(elements)), head, *atoms, *tail])


def xyz_files():
    files = {f"dsgdb9nsd_{n:06d}.xyz": xyz_text(n, n) for n in REAL}
    files["dsgdb9nsd_000058.xyz"] = xyz_text(58, 1)  # 58 is uncharacterized
    return files


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "xyz"
    path.mkdir()
    for name, text in xyz_files().items():
        (path / name).write_text(text)
    return path


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(path, "w:bz2") as file:
        for name, text in reversed(xyz_files().items()):  # the order must not matter
            info = tarfile.TarInfo(name)
            info.size = len(text)
            file.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Tables in qm9pack's format, found in place of the installed ones."""
    path = tmp_path / "package"
    path.mkdir()
    names = list(qm9_raw.CSV_COLUMNS.values())
    header = ["Index", "SMILES", "Elements", "XYZ_Ang", "Mulliken_pop", *names]
    for table, numbers in zip(qm9_raw.TABLES, ([1, 2], [3], [4]), strict=True):
        rows = [",".join(header)]
        for n in numbers:
            smiles, elements, pos, charges, scalars, _ = REAL[n]
            column = dict(zip(qm9_raw.XYZ_COLUMNS, scalars.split(), strict=True))
            xyz = pos.split()
            triples = [f"[{','.join(xyz[k : k + 3])}]" for k in range(0, len(xyz), 3)]
            quoted = [
                smiles,
                str(list(elements)).replace(" ", ""),
                f"[{','.join(triples)}]",
                f"[{','.join(charges.split())}]",
            ]
            values = [column[name] for name in qm9_raw.CSV_COLUMNS]
            rows.append(",".join([str(n), *(f'"{entry}"' for entry in quoted), *values]))
        (path / table).write_text("\n".join(rows) + "\n")
    rows = ["XYZ_file,A_xx,A_xy,A_yy,A_xz,A_yz,A_zz"]
    rows += [f'"dsgdb9nsd_{n:06d}.xyz",{REAL[n][5].replace(" ", ",")}' for n in REAL]
    (path / qm9_raw.POLARIZABILITY_TABLE).write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(qm9_raw, "find_qm9pack", lambda: path)
    monkeypatch.setattr(qm9_raw, "CHECKSUMS", {k: checksum(path / k) for k in qm9_raw.CHECKSUMS})
    return path


@pytest.fixture
def nowhere(monkeypatch):
    """No package, and a server that refuses."""
    monkeypatch.setattr(qm9_raw, "find_qm9pack", lambda: None)
    monkeypatch.setattr(qm9, "ARCHIVE_URL", "http://127.0.0.1:9/none")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def check_methane(molecule, rtol=1e-12):
    assert molecule.z.tolist() == [6, 1, 1, 1, 1]
    assert_close(molecule.pos[0], torch.tensor([-0.0126981359, 1.0858041578, 0.0080009958]))
    assert_close(molecule.charges[1].item(), 0.133921, rtol=1e-6, atol=0)
    want = {
        "mu": 0.0,
        "alpha": 13.21,
        "homo": -0.3877 * HARTREE,
        "lumo": 0.1171 * HARTREE,
        "gap": 0.5048 * HARTREE,
        "r2": 35.3641,
        "zpve": 0.044749 * HARTREE,
        "U0": -40.47893 * HARTREE,
        "U": -40.476062 * HARTREE,
        "H": -40.475117 * HARTREE,
        "G": -40.498597 * HARTREE,
        "Cv": 6.469,
        "A": 157.7118,
        "B": 157.70997,
        "C": 157.70699,
        # less carbon and four hydrogens
        "U0_atom": (-40.47893 + 37.846772 + 4 * 0.500273) * HARTREE,
        "U_atom": (-40.476062 + 37.845355 + 4 * 0.498857) * HARTREE,
        "H_atom": (-40.475117 + 37.844411 + 4 * 0.497912) * HARTREE,
        "G_atom": (-40.498597 + 37.861317 + 4 * 0.510927) * HARTREE,
    }
    assert list(want) == list(QM9.properties)
    for name, value in want.items():
        expected = torch.tensor([value], dtype=torch.float64)
        assert_close(molecule[name], expected, rtol=rtol, atol=1e-11, msg=name)
    assert (molecule.smiles, molecule.idx.tolist()) == ("C", [0])


@PART
@pytest.mark.parametrize("source", ["folder", "archive", "package"])
def test_every_source_gives_the_numbers_written_in_the_files(tmp_path, source, request):
    raw = request.getfixturevalue(source)
    data = QM9(tmp_path / "root", raw=None if source == "package" else raw)
    assert len(data) == 4
    assert data.idx.tolist() == [0, 1, 2, 3]
    assert [molecule.smiles for molecule in data] == ["C", "N", "O", "C#C"]
    check_methane(data[0])
    acetylene = data[3]
    assert_close(acetylene.pos[:, 2], torch.ones(4))
    tensor = torch.tensor([[[10.491, 0, 0], [0, 10.491, 0], [0, 0, 27.863]]], dtype=torch.float64)
    if source != "package":
        tensor *= float("nan")
    assert_close(acetylene.polarizability, tensor, equal_nan=True)


@PART
def test_mathematicas_powers_of_ten_are_read(tmp_path, folder):
    file = folder / "dsgdb9nsd_000001.xyz"
    file.write_text(file.read_text().replace("-0.0126981359", "6.2*^-6"))
    assert QM9(tmp_path / "root", raw=folder)[0].pos[0, 0].item() == pytest.approx(6.2e-6)


@PART
def test_off_diagonal_polarizabilities_stand_where_their_names_say(tmp_path, package, monkeypatch):
    path = package / qm9_raw.POLARIZABILITY_TABLE
    methane = "13.211,0.000,13.211,0.000,0.000,13.211"
    path.write_text(path.read_text().replace(methane, "1,2,3,4,5,6"))
    monkeypatch.setitem(qm9_raw.CHECKSUMS, path.name, checksum(path))
    tensor = QM9(tmp_path / "root")[0].polarizability
    assert tensor.tolist() == [[[1, 2, 4], [2, 3, 5], [4, 5, 6]]]


@PART
def test_targets_are_the_columns_of_y_in_the_order_asked_for(tmp_path, folder):
    every = QM9(tmp_path, raw=folder)
    assert every[0].y.shape == (1, 15)
    assert every[0].y.dtype == torch.float64
    assert_close(every[0].y[0, 7], every[0].U0[0])
    two = QM9(tmp_path, target=["U0_atom", "mu"], raw=folder)
    assert_close(two[1].y, torch.stack([two[1].U0_atom, two[1].mu], dim=1))
    assert QM9(tmp_path, target="gap", raw=folder).y.shape == (4, 1)
    assert len(list((tmp_path / "processed").iterdir())) == 1


def test_an_unknown_target_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="target 'energy' is not in QM9; there are mu, alpha, "):
        QM9(tmp_path / "root", target="energy")
    with pytest.raises(ValueError, match="names nothing"):
        QM9(tmp_path / "root", target=[])
    assert not (tmp_path / "root").exists()


@PART
def test_atom_references_turn_totals_into_atomization_energies(tmp_path, folder):
    for molecule in QM9(tmp_path, raw=folder):
        for name in ("U0", "U", "H", "G"):
            reference = QM9.atomref(name)
            separate = sum(reference[z, 0] for z in molecule.z.tolist())
            assert_close(molecule[name] - separate, molecule[f"{name}_atom"], rtol=0, atol=1e-9)
    assert QM9.atomref("U0").shape == (100, 1)
    assert QM9.atomref("Cv")[8].item() == 2.981
    assert QM9.atomref("zpve").abs().max().item() == 0
    assert QM9.atomref("mu") is None
    with pytest.raises(ValueError, match="not in QM9"):
        QM9.atomref("energy")


@PART
def test_batches_subsets_copies_and_transforms_work(tmp_path, folder):
    def centred(molecule):
        molecule.pos = molecule.pos - molecule.pos.mean(0)
        return molecule

    data = QM9(tmp_path, target="U0", raw=folder, transform=centred)
    (batch,) = DataLoader(data, batch_size=4)
    assert batch.smiles == ["C", "N", "O", "C#C"]
    assert batch.idx.tolist() == [0, 1, 2, 3]  # not offset
    assert batch.y.shape == (4, 1)
    assert batch.polarizability.shape == (4, 3, 3)
    assert batch.batch.tolist() == [0] * 5 + [1] * 4 + [2] * 3 + [3] * 4
    assert_close(data[2].pos.mean(0), torch.zeros(3), rtol=0, atol=1e-6)
    some = data[torch.tensor([3, 0])]
    assert [molecule.smiles for molecule in some] == ["C#C", "C"]
    copied = some.copy()
    assert len(copied) == 2
    assert copied[1].smiles == "C"
    assert data.copy([2])[0].smiles == "O"


@PART
def test_pre_filter_and_pre_transform_see_whole_molecules(tmp_path, folder):
    def no_carbon(molecule):
        return "C" not in molecule.smiles

    def with_edge(molecule):
        molecule.edge_index = torch.tensor([[0, 1, 0], [1, 0, 2]])
        molecule.label = molecule.smiles * 2
        return molecule

    data = QM9(tmp_path, target="U0", raw=folder, pre_filter=no_carbon, pre_transform=with_edge)
    assert [(m.label, m.num_nodes) for m in data] == [("NN", 4), ("OO", 3)]
    assert data[1].edge_index.tolist() == [[0, 1, 0], [1, 0, 2]]
    assert_close(data[1].y, torch.tensor([[-76.404702 * HARTREE]], dtype=torch.float64))
    assert [file.name for file in (tmp_path / "processed").iterdir()] == ["qm9.safetensors"]
    again = QM9(tmp_path, raw=folder, pre_filter=no_carbon, pre_transform=with_edge)
    assert len(again) == 2
    with pytest.warns(UserWarning, match="made with pre_filter .*no_carbon and None is asked for"):
        QM9(tmp_path, raw=folder, pre_transform=with_edge)


@PART
def test_a_single_molecule_is_a_data_set_too(tmp_path, folder):
    data = QM9(tmp_path, raw=folder, pre_filter=lambda molecule: molecule.smiles == "O")
    assert len(data) == 1
    assert (data[0].smiles, data[0].z.tolist()) == ("O", [8, 1, 1])
    with pytest.raises(ValueError, match="keeps none of 4 molecules"):
        QM9(tmp_path, raw=folder, pre_filter=lambda molecule: False, force_reload=True)


@PART
def test_a_target_that_pre_transform_removed_is_told(tmp_path, folder):
    def bare(molecule):
        del molecule.U0
        return molecule

    with pytest.raises(ValueError, match="pre_transform removed U0"):
        QM9(tmp_path, target="U0", raw=folder, pre_transform=bare)


def test_an_incomplete_source_is_told(tmp_path, folder):
    with pytest.warns(UserWarning, match="raw xyz holds 4 of the 130831 molecules"):
        QM9(tmp_path / "root", raw=folder)


@PART
def test_another_source_than_the_processed_one_is_told(tmp_path, folder, archive):
    QM9(tmp_path / "root", raw=folder)
    with pytest.warns(UserWarning, match="force_reload=True"):
        QM9(tmp_path / "root", raw=archive)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, "many", "line 1: invalid literal"),
        (1, "gdb 1 157.7", "line 2: 'gdb', a number and 15 properties"),
        (3, "Xx 0 0 0 0", "line 4: 'element x y z charge' is expected"),
        (4, "H 0 zero 0 0", "line 5: could not convert"),
        (5, "H 0 0 0", "line 6: 'element x y z charge' is expected"),
    ],
)
def test_a_malformed_file_is_told_with_its_line(tmp_path, folder, line, text, message):
    file = folder / "dsgdb9nsd_000001.xyz"
    lines = file.read_text().splitlines()
    lines[line] = text
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"dsgdb9nsd_000001.xyz, {message}"):
        QM9(tmp_path / "root", raw=folder)
    assert not list((tmp_path / "root").rglob("*.*"))


def test_a_file_that_ends_early_is_told(tmp_path, folder):
    file = folder / "dsgdb9nsd_000001.xyz"
    file.write_text("\n".join(file.read_text().splitlines()[:6]))
    with pytest.raises(ValueError, match="line 7: the file ends too early"):
        QM9(tmp_path / "root", raw=folder)


def test_a_truncated_archive_is_told(tmp_path, archive):
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut off or damaged"):
        QM9(tmp_path / "root", raw=archive)


def test_a_molecule_that_comes_twice_is_told(tmp_path, folder):
    (folder / "dsgdb9nsd_000001b.xyz").write_text(xyz_text(1, 1))
    with pytest.raises(ValueError, match="molecule 1 comes more than once"):
        QM9(tmp_path / "root", raw=folder)


def test_a_raw_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: give the folder"):
        QM9(tmp_path / "root", raw=tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no file"):
        QM9(tmp_path / "root", raw=tmp_path)


def test_a_changed_table_of_the_package_is_told(tmp_path, package):
    with open(package / "qm9_part2.csv", "a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"qm9_part2.csv has checksum sha256:.* is expected"):
        QM9(tmp_path / "root")


def test_without_any_source_the_three_ways_are_told(tmp_path, nowhere):
    ways = "'pip install qm9pack', or pass raw= .*, or connect to the internet"
    with pytest.raises(FileNotFoundError, match=ways):
        QM9(tmp_path / "root")


@PART
def test_a_downloaded_archive_is_used(tmp_path, archive, nowhere, monkeypatch):
    monkeypatch.setattr(qm9, "ARCHIVE_CHECKSUM", checksum(archive, "md5"))
    raw = tmp_path / "root" / "raw"
    raw.mkdir(parents=True)
    archive.rename(raw / archive.name)
    check_methane(QM9(tmp_path / "root")[0])


@PART
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing_and_the_next_time_starts_afresh(
    tmp_path, folder, monkeypatch, failure
):
    def half(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", half)
        with pytest.raises(type(failure), match="make room|^$"):
            QM9(tmp_path / "root", raw=folder)
    assert list((tmp_path / "root" / "processed").iterdir()) == []
    check_methane(QM9(tmp_path / "root", raw=folder)[0])


@PART
def test_too_little_room_is_told_before_writing(tmp_path, folder, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="make room, then try again; nothing was written"):
        QM9(tmp_path / "root", raw=folder)


@PART
def test_a_damaged_processed_file_is_told_and_mended_by_force_reload(tmp_path, folder):
    QM9(tmp_path, raw=folder)
    path = tmp_path / "processed" / "qm9.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is damaged .*: delete it, or pass force_reload=True"):
        QM9(tmp_path, raw=folder)
    check_methane(QM9(tmp_path, raw=folder, force_reload=True)[0])


@PART
def test_no_pickle_is_written_or_read(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr(torch, "save", None)
    QM9(tmp_path, raw=folder, pre_filter=bool)
    QM9(tmp_path, raw=folder, pre_filter=bool)
    assert [file.suffix for file in (tmp_path / "processed").iterdir()] == [".safetensors"]


REAL_PACKAGE = importlib.util.find_spec("qm9pack") is not None


@pytest.mark.slow
@pytest.mark.skipif(not REAL_PACKAGE, reason="qm9pack is not installed: no real QM9 to read")
def test_the_real_data_set_is_read_whole(tmp_path):
    code = (
        "import sys, resource; from pyg_schnet.datasets import QM9; QM9(sys.argv[1]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    if sys.platform == "linux":
        assert int(run.stdout) < 4e6  # kB
    data = QM9(tmp_path)
    assert len(data) == len(set(data.idx.tolist())) == 130_831
    assert not {number - 1 for number in qm9_raw.uncharacterized()} & set(data.idx.tolist())
    assert data.idx.max().item() == 133_884
    check_methane(data[0])
    assert data[0].U0_atom.item() == pytest.approx(-17.172, abs=1e-3)
    assert data.z.unique().tolist() == [1, 6, 7, 8, 9]
    heavy = torch.zeros(len(data), dtype=torch.int64).index_add_(
        0,
        torch.repeat_interleave(torch.arange(len(data)), data.slices["z"].diff()),
        (data.z > 1).long(),
    )
    assert heavy.max().item() == 9
    assert data.slices["z"].diff().max().item() == 29
    mean = data.polarizability.diagonal(dim1=1, dim2=2).mean(1)
    assert_close(mean, data.alpha, rtol=0, atol=6e-3)  # alpha has two decimals
    assert_close(data.gap, data.lumo - data.homo, rtol=0, atol=3e-4 * HARTREE)
    assert data.U0_atom.max().item() < 0
