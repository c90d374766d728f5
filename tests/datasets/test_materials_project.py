"""Crystals from every kind of source, bad ones among them, against pymatgen and by hand."""

import csv
import gzip
import io
import json
import pickle
import signal
import zipfile
from pathlib import Path
from types import SimpleNamespace

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from small_crystals import CRYSTALS, cif, structure_dict, write_cgcnn
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import MaterialsProject, crystal_cif, crystal_json, materials_api
from pyg_schnet.datasets.crystal_cif import read_by_pymatgen, read_cif, read_plain
from pyg_schnet.datasets.crystal_files import read_crystals
from pyg_schnet.datasets.crystal_json import read_records
from pyg_schnet.datasets.crystal_structure import Refused, atomic_number, from_dict, from_pymatgen

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
KEY = "k" * 32
NAMES = list(CRYSTALS)
ENERGIES = [CRYSTALS[name][4] for name in NAMES]


def write_csv(path, rows, columns=("material_id", "cif", "formation_energy_per_atom")):
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def table(tmp_path):
    """A CSV of the crystals, and rows that are added to it."""

    def write(*more, name="crystals.csv"):
        rows = [[name, cif(name), CRYSTALS[name][4]] for name in NAMES]
        return write_csv(tmp_path / "files" / name, [*rows, *more])

    return write


def same_crystal(one, other, atol=1e-6):
    """Both as sets of atoms up to lattice vectors, whatever the orientation of the cell."""
    assert sorted(one.z) == sorted(other.z)
    assert_close(one.cell @ one.cell.T, other.cell @ other.cell.T, rtol=1e-6, atol=1e-6)
    frac_one = one.pos @ np.linalg.inv(one.cell)
    frac_other = other.pos @ np.linalg.inv(other.cell)
    for z, place in zip(one.z, frac_one):
        apart = frac_other[other.z == z] - place
        apart = (apart - apart.round()) @ other.cell
        assert np.linalg.norm(apart, axis=1).min() < atol


# Reading one crystal


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_cif_is_read_as_pymatgen_reads_it(name):
    pytest.importorskip("pymatgen.core")
    crystal = read_plain(cif(name))
    [theirs] = read_by_pymatgen(cif(name))
    same_crystal(crystal, theirs)
    assert_close(crystal.cell, theirs.cell, rtol=0, atol=1e-12)
    lengths, _, species, _, _ = CRYSTALS[name]
    assert crystal.z.tolist() == [atomic_number(symbol) for symbol in species]
    assert_close(np.linalg.norm(crystal.cell, axis=1), np.array(lengths), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_of_pymatgen_is_read_as_pymatgen_reads_it(name):
    core = pytest.importorskip("pymatgen.core")
    structure = core.Structure.from_dict(structure_dict(name))
    ours, theirs = from_dict(structure_dict(name)), from_pymatgen(structure)
    assert ours.z.tolist() == theirs.z.tolist() and ours.pbc.all()
    assert_close(ours.pos, theirs.pos, rtol=0, atol=1e-12)
    assert_close(ours.pos, structure.cart_coords, rtol=0, atol=1e-12)
    again = from_dict(structure.as_dict())
    assert_close(again.pos, theirs.pos, rtol=0, atol=1e-12)
    same_crystal(ours, read_plain(cif(name)))


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib
def test_symmetry_and_oxidation_states_are_understood():
    core = pytest.importorskip("pymatgen.core")
    from pymatgen.io.cif import CifWriter

    lattice = core.Lattice.cubic(5.69)
    salt = core.Structure.from_spacegroup(
        "Fm-3m", lattice, ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    symmetric = str(CifWriter(salt, symprec=0.01))
    assert read_plain(symmetric) is None
    crystal = read_cif(symmetric)
    assert sorted(crystal.z) == [11] * 4 + [17] * 4
    same_crystal(crystal, from_pymatgen(salt))
    decorated = str(CifWriter(salt))
    assert "Na+" in decorated
    same_crystal(read_plain(decorated), from_pymatgen(salt))
    assert sorted(from_dict(salt.as_dict()).z) == [11] * 4 + [17] * 4


def test_cifs_of_ase_are_read_without_pymatgen(tmp_path):
    atoms = ase.build.bulk("GaAs", "zincblende", 5.65)
    atoms.write(tmp_path / "gaas.cif")
    crystal = read_plain((tmp_path / "gaas.cif").read_text())
    assert crystal.z.tolist() == [31, 33]
    distance = np.linalg.norm(crystal.pos[1] - crystal.pos[0])
    assert distance == pytest.approx(5.65 * 3**0.5 / 4, abs=1e-5)


@pytest.mark.parametrize(
    "old, new",
    [
        ("'P 1'", "'F m -3 m'"),
        ("  1  'x, y, z'", "  1  'x, y, z'\n  2  '-x, -y, -z'"),
        ("'x, y, z'", "'-x, y, z'"),
        ("_symmetry_Int_Tables_number   1", "_symmetry_Int_Tables_number   225"),
        ("0.50000000", "0.5(1)"),
        ("data_NaCl", "data_NaCl\n_atom_site_attached_hydrogens 1"),
        ("data_NaCl", "data_NaCl\n_audit_text\n;\n_cell_length_a 1\n;"),
        ("data_NaCl", "data_a\ndata_NaCl"),
        ("  Na  Na0  1  ", "  Na  Na0  4  "),
        ("  Na  Na0  1  0.00000000  ", "  Na  Na0  1  ?  "),
        ("_atom_site_type_symbol", "_atom_site_calc_flag"),
        ("_atom_site_occupancy", "_atom_site_U_iso_or_equiv"),
    ],
)
def test_the_quick_reader_leaves_what_it_does_not_know_to_pymatgen(old, new):
    text = cif("NaCl")
    assert read_plain(text) is not None and old in text
    assert read_plain(text.replace(old, new)) is None


def test_a_cif_that_was_cut_off_is_refused_by_its_formula():
    whole = cif("CaTiO3", formula="Ca1 Ti1 O3")
    assert len(read_plain(whole).z) == 5
    with pytest.raises(Refused, match="Ca1 Ti1 O3 and it lists 4 atoms"):
        read_plain(whole[: whole.rindex("  O  O4")])
    unit = cif("ZrO2", formula="Zr O2").replace(
        "_cell_length_a", "_cell_formula_units_Z 2\n_cell_length_a"
    )
    assert len(read_plain(unit).z) == 6


def test_species_are_elements_with_or_without_charge():
    known = {"Fe": 26, "Fe3+": 26, "Fe+3": 26, "O2-": 8, "O-": 8, "Ni2.5+": 28, "D": 1, "Og": 118}
    assert {species: atomic_number(species) for species in known} == known
    for wrong in ("X", "Xx3+", "Vac", "", "Fe3", "OH", "fe"):
        with pytest.raises(Refused, match="unknown species"):
            atomic_number(wrong)


def test_pymatgen_is_not_allowed_to_guess_species():
    pytest.importorskip("pymatgen.core")
    text = cif("NaCl", species=["Vac", "Cl"])
    with pytest.raises(Refused, match="unknown species"):
        read_by_pymatgen(text)


# Sources


def check_whole(data):
    assert data._indices is None and len(data) == 4
    assert list(data._data.material_id) == NAMES
    assert data._data.y.tolist() == [[energy] for energy in ENERGIES]
    one = data[0]
    assert one.z.tolist() == [11, 17] and one.z.dtype == torch.int64
    assert one.pos.dtype == one.cell.dtype == torch.float32 and one.cell.shape == (1, 3, 3)
    assert one.pbc.tolist() == [[True] * 3] and one.pbc.dtype == torch.bool
    assert one.y.shape == (1, 1) and one.y.dtype == torch.float64
    # The nearest Na and Cl: half the edge of the conventional cube, 3.99 Å times root 2.
    assert (one.pos[1] - one.pos[0]).norm().item() == pytest.approx(3.99 * 2**0.5, rel=1e-6) or (
        one.pos[1] - one.pos[0]
    ).norm().item() == pytest.approx(3.99 * 1.5**0.5, rel=1e-6)
    assert one.formation_energy_per_atom.tolist() == [ENERGIES[0]]


def records(structure):
    return [
        {
            "material_id": name,
            "structure": structure(name),
            "formation_energy_per_atom": CRYSTALS[name][4],
            "band_gap": 1.0,
            "K": None,
            "graph": {"index1": [0]},
        }
        for name in NAMES
    ]


def test_a_folder_of_cifs_in_the_layout_of_cgcnn(tmp_path):
    data = MaterialsProject(tmp_path / "root", raw=write_cgcnn(tmp_path / "cifs"))
    check_whole(data)
    assert not list((tmp_path / "root").rglob("*.pt"))
    check_whole(MaterialsProject(tmp_path / "root"))
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch.cell.shape == (4, 3, 3) and batch.y.shape == (4, 1)
    assert pickle.loads(pickle.dumps(data))[1].material_id == "CaTiO3"


def test_a_table_with_header_beside_the_folder_of_cifs(tmp_path):
    folder = write_cgcnn(tmp_path / "set" / "cif_files")
    (folder / "id_prop.csv").unlink()
    rows = "".join(f"{name}.cif,{CRYSTALS[name][4]},x\n" for name in NAMES)
    (tmp_path / "set" / "material_ids_with_prop.csv").write_text("filename,e_form,note\n" + rows)
    check_whole(MaterialsProject(tmp_path / "a", raw=folder))
    check_whole(MaterialsProject(tmp_path / "b", raw=tmp_path / "set"))


def test_the_folder_of_mp_20_becomes_splits(tmp_path):
    columns = ["", "material_id", "formation_energy_per_atom", "pretty_formula", "cif"]
    parts = {"train": NAMES[:2], "val": NAMES[2:3], "test": NAMES[3:]}
    for part, names in parts.items():
        rows = [[k, name, CRYSTALS[name][4], name, cif(name)] for k, name in enumerate(names)]
        write_csv(tmp_path / "mp_20" / f"{part}.csv", rows, columns)
    data = MaterialsProject(tmp_path / "root", raw=tmp_path / "mp_20")
    check_whole(data)
    assert data.split_names == ("train", "val", "test")
    assert data.split("train").tolist() == [0, 1] and data.split("test").tolist() == [3]
    assert list(data.properties) == ["formation_energy_per_atom"]
    test = MaterialsProject(tmp_path / "root", split="test")
    assert [crystal.material_id for crystal in test] == ["ZrO2"]


@pytest.mark.parametrize("kind", ["json", "json.gz", "zip"])
def test_a_snapshot_that_is_a_list_of_objects(tmp_path, kind):
    text = json.dumps(records(cif))
    path = tmp_path / f"mp.2018.6.1.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mp.2018.6.1.json", text)
    else:
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    data = MaterialsProject(tmp_path / "root", raw=path)
    check_whole(data)
    assert list(data.properties) == ["formation_energy_per_atom", "band_gap"]
    assert data.properties["band_gap"].unit == "eV"


@pytest.mark.parametrize("order", [("index", "columns", "data"), ("data", "columns", "index")])
def test_a_snapshot_of_matbench(tmp_path, order):
    content = {
        "index": NAMES,
        "columns": ["structure", "e_form"],
        "data": [[structure_dict(name), CRYSTALS[name][4]] for name in NAMES],
    }
    path = tmp_path / "matbench_mp_e_form.json.gz"
    path.write_bytes(gzip.compress(json.dumps({key: content[key] for key in order}).encode()))
    check_whole(MaterialsProject(tmp_path / "a", raw=path))
    check_whole(MaterialsProject(tmp_path / "b", target="e_form", source=path))


def test_a_file_in_the_raw_folder_is_found(tmp_path, table):
    table(name="x.csv.gz").rename(tmp_path / "x.csv.gz")
    (tmp_path / "root" / "raw").mkdir(parents=True)
    (tmp_path / "x.csv.gz").rename(tmp_path / "root" / "raw" / "x.csv.gz")
    check_whole(MaterialsProject(tmp_path / "root"))


def test_columns_of_numbers_are_properties_and_can_be_targets(tmp_path):
    columns = ["material_id", "cif", "heat_all", "e_above_hull", "formula", "is_metal", "size"]
    formulas = ["InF", "NaCl", "Fe", "O2"]
    rows = [[n, cif(n), k, k / 2, formulas[k], "True", 3] for k, n in enumerate(NAMES)]
    path = write_csv(tmp_path / "x.csv", rows, columns)
    targets = ["heat_all", "e_above_hull"]
    data = MaterialsProject(tmp_path / "root", targets, path)
    assert list(data.properties) == ["heat_all", "energy_above_hull", "is_metal"]
    assert data._data.y.tolist() == [[0.0, 0.0], [1.0, 0.5], [2.0, 1.0], [3.0, 1.5]]
    assert data[0].is_metal.tolist() == [1.0]
    assert "y" not in MaterialsProject(tmp_path / "root", None)._data
    with pytest.raises(ValueError, match="target='size' is no property.* heat_all, energy_above"):
        MaterialsProject(tmp_path / "root", "size")


def test_arrays_are_a_source_too(tmp_path):
    crystals = [read_plain(cif(name)) for name in NAMES]
    arrays = {
        "material_id": np.array(NAMES),
        "n_atoms": np.array([len(crystal.z) for crystal in crystals]),
        "numbers": np.concatenate([crystal.z for crystal in crystals]),
        "frac_coords": np.concatenate([CRYSTALS[name][3] for name in NAMES]),
        "cell": np.stack([crystal.cell for crystal in crystals]),
        "formation_energy_per_atom": np.array(ENERGIES),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    check_whole(MaterialsProject(tmp_path / "root", raw=tmp_path / "x.npz"))
    np.savez(tmp_path / "short.npz", **arrays | {"numbers": arrays["numbers"][:-1]})
    with pytest.raises(ValueError, match="4 crystals of 14 atoms do not fit numbers"):
        MaterialsProject(tmp_path / "b", raw=tmp_path / "short.npz")
    np.savez(tmp_path / "evil.npz", numbers=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="holds Python objects"):
        MaterialsProject(tmp_path / "c", raw=tmp_path / "evil.npz")


# Bad input

BAD = {
    "disordered": ("occupancy disorder", cif("NaCl", occupancy=0.5)),
    "flat": ("cell without volume", cif("NaCl", lengths=[3.99, 3.99, 0.0])),
    "cell-less": ("no cell", cif("NaCl").replace("_cell_length_b   3.99000000\n", "")),
    "dummy": ("unknown species", cif("NaCl", species=["X", "Cl"])),
    "strange": ("unknown species", cif("NaCl", species=["Xx3+", "Cl"])),
    "heavy": ("element beyond Z = 99", cif("NaCl", species=["Fm", "Cl"])),
    "twice": ("atoms on one point", cif("NaCl", frac=[[0, 0, 0], [1, 0, 0.001]])),
    "lonely": ("isolated atom", cif("Fe", species=["Xe"], lengths=[9.0, 9.0, 9.0])),
    "infinite": ("unreadable", cif("NaCl", frac=[[0, 0, 0], [0, 0, float("inf")]])),
    "garbage": ("unreadable", "no CIF at all"),
    "empty": ("no structure", ""),
}


def test_bad_crystals_are_named_and_counted_and_the_rest_goes_on(tmp_path, table):
    pytest.importorskip("pymatgen.core")
    path = table(*([name, text, 1.0] for name, (_, text) in BAD.items()))
    with pytest.warns(UserWarning, match=f"{len(BAD)} of {len(BAD) + 4} crystals") as caught:
        data = MaterialsProject(tmp_path / "root", raw=path)
    check_whole(data)
    assert len(caught) == 1 and "2 unreadable (infinite, garbage)" in str(caught[0].message)
    with open(tmp_path / "root" / "processed" / "skipped.csv", newline="") as file:
        listed = {row["material_id"]: row["reason"] for row in csv.DictReader(file)}
    assert listed == {name: reason for name, (reason, _) in BAD.items()}


def test_bad_dictionaries_are_named_too(tmp_path):
    good = records(structure_dict)
    half = structure_dict("NaCl")
    half["sites"][0]["species"] = [{"element": "Na", "occu": 0.5}, {"element": "K", "occu": 0.5}]
    dummy = structure_dict("NaCl")
    dummy["sites"][0]["species"] = [{"element": "X0", "oxidation_state": 1, "occu": 1}]
    bad = [half, dummy, structure_dict("Fe", lattice={"a": 1}), structure_dict("Fe", sites=[])]
    bad += [structure_dict("Fe", sites=3), None, 7]
    rows = [{"id": f"bad-{k}", "structure": entry} for k, entry in enumerate(bad)]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows + good))
    with pytest.warns(UserWarning, match="7 of 11 crystals of raw x.json are left out"):
        check_whole(MaterialsProject(tmp_path / "root", raw=path))
    reasons = (tmp_path / "root" / "processed" / "skipped.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in reasons] == [
        "occupancy disorder",
        "unknown species",
        "no cell",
        "no atoms",
        "unreadable",
        "no structure",
        "unreadable",
    ]


def test_isolated_atoms_are_dropped_or_kept(tmp_path, table):
    path = table(["lonely", BAD["lonely"][1], 1.0])
    with pytest.warns(UserWarning, match=r"1 isolated atom \(lonely\)"):
        assert len(MaterialsProject(tmp_path / "a", raw=path)) == 4
    assert "no neighbour within 5 Å" in (tmp_path / "a/processed/skipped.csv").read_text()
    kept = MaterialsProject(tmp_path / "b", raw=path, isolated="keep")
    assert len(kept) == 5 and kept[4].z.tolist() == [54]
    # Neighbours in a body-centred cell are as far apart as its lattice vectors.
    assert len(MaterialsProject(tmp_path / "c", raw=path, cutoff=9.1)) == 5
    with pytest.warns(UserWarning, match="was made with cutoff 9.1 and 5.0 is asked for"):
        MaterialsProject(tmp_path / "c")


def test_crystals_without_a_finite_target_are_left_out_of_that_target_alone(tmp_path, table):
    path = table(["a", cif("Fe"), "nan"], ["b", cif("Fe"), "n/a"], ["c", cif("Fe"), "inf"])
    with path.open(newline="") as file:
        lines = [*csv.reader(file)][1:]
    columns = ["material_id", "cif", "formation_energy_per_atom", "K"]
    path = write_csv(path, [[*row[:3], "" if row[0] == "Fe" else 7.0] for row in lines], columns)
    told = r"3 of 7 crystals .* 3 no finite formation_energy_per_atom \(a, b, c\)"
    with pytest.warns(UserWarning, match=told):
        check_whole(MaterialsProject(tmp_path / "root", raw=path))
    with pytest.warns(UserWarning, match=r"1 of 7 crystals .* 1 no finite K \(Fe\)"):
        other = MaterialsProject(tmp_path / "root", "K")
    assert [crystal.material_id for crystal in other] == ["NaCl", "CaTiO3", "ZrO2", "a", "b", "c"]
    assert [crystal.num_nodes for crystal in other] == [2, 5, 6, 1, 1, 1]
    same = MaterialsProject(tmp_path / "root", None)[2]
    assert same.material_id == "Fe" and other[3].cell.tolist() == same.cell.tolist()


def test_tables_and_files_that_do_not_agree(tmp_path):
    folder = write_cgcnn(tmp_path / "cifs")
    (folder / "more.cif").write_text(cif("Fe"))
    (folder / "broken.cif").write_bytes(b"\xff\x00 data_")
    with open(folder / "id_prop.csv", "a") as file:
        file.write("absent,1.0\nbroken,1.0\n")
    with pytest.warns(UserWarning, match=r"3 of 7 .* 1 not in the table \(more\)"):
        check_whole(MaterialsProject(tmp_path / "root", raw=folder))


def test_nothing_left_is_an_error(tmp_path):
    path = write_csv(tmp_path / "x.csv", [["a", "", 1.0], ["b", "", 1.0]])
    with pytest.raises(ValueError, match=r"no crystal can be read: 2 no structure \(a, b\)"):
        MaterialsProject(tmp_path / "root", raw=path)
    path = write_csv(tmp_path / "y.csv", [["a", cif("Fe"), ""]])
    with pytest.raises(ValueError, match="is no property of these crystals"):
        MaterialsProject(tmp_path / "root", raw=path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"isolated": "maybe"}, "must be 'drop' or 'keep'"),
        ({"cutoff": 0.0}, "cutoff=0.0 must be positive"),
        ({"target": []}, "names nothing"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"raw": "a", "source": "b"}, "choose one"),
        ({"raw": "a", "source": "api"}, "choose one"),
        ({"raw": "a", "search": {}}, "search= is for the Materials Project"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        MaterialsProject(tmp_path, **arguments)


def test_files_of_other_kinds_and_damaged_ones(tmp_path, table):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        MaterialsProject(tmp_path / "r", raw=tmp_path / "no.csv")
    (tmp_path / "POSCAR").touch()
    with pytest.raises(ValueError, match="is no table of crystals"):
        MaterialsProject(tmp_path / "r", raw=tmp_path / "POSCAR")
    with pytest.raises(FileNotFoundError, match="neither train.csv"):
        MaterialsProject(tmp_path / "r", raw=tmp_path)
    path = write_csv(tmp_path / "x.csv", [["a", 1.0]], ["id", "energy"])
    with pytest.raises(ValueError, match="has no column 'cif'"):
        MaterialsProject(tmp_path / "r", raw=path)
    whole = table(name="whole.csv.gz").read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="cut.csv.gz is cut off or damaged"):
        MaterialsProject(tmp_path / "r", raw=tmp_path / "cut.csv.gz")
    text = json.dumps(records(cif))
    for name, content in {
        "cut": text[:-30],
        "number": "3",
        "object": '{"a": 1}',
        "list": "[1]",
    }.items():
        (tmp_path / f"{name}.json").write_text(content)
        with pytest.raises(ValueError, match=f"{name}.json"):
            MaterialsProject(tmp_path / "r", raw=tmp_path / f"{name}.json")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(text.encode())[:-40])
    with pytest.raises(ValueError, match="cut.json.gz is cut off"):
        MaterialsProject(tmp_path / "r", raw=tmp_path / "cut.json.gz")
    folder = write_cgcnn(tmp_path / "cifs")
    (folder / "id_prop.csv").unlink()
    with pytest.raises(ValueError, match="no table of their targets"):
        MaterialsProject(tmp_path / "r", raw=folder)
    assert len(MaterialsProject(tmp_path / "r", None, folder)) == 4


@pytest.mark.parametrize("block", [1, 7, 100, 1 << 20])
def test_json_is_read_alike_whatever_the_size_of_the_blocks(monkeypatch, block):
    monkeypatch.setattr(crystal_json, "_BLOCK", block)
    rows = [{"a": [1.25, -3e5], "b": 'ä\\"{]'}, {"c": 123456789}, {}]
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    assert list(read_records(lambda: io.StringIO(text), "x")) == rows
    split = {"columns": ["n"], "index": [7, 8], "data": [[12345], [6]], "more": 12}
    expected = [{"index": 7, "n": 12345}, {"index": 8, "n": 6}]
    text = json.dumps(split)
    assert list(read_records(lambda: io.StringIO(text), "x")) == expected
    assert list(read_records(lambda: io.StringIO("[ ]"), "x")) == []


def test_other_processes_read_the_same(tmp_path, monkeypatch):
    pytest.importorskip("pymatgen.core")
    monkeypatch.setattr(crystal_cif.CifReaders, "_FEW", 1)
    # Uncertainties in brackets are left to pymatgen.
    texts = [cif(name).replace("0.50000000", "0.500(1)") for name in ("NaCl", "CaTiO3")]
    handler = signal.getsignal(signal.SIGINT)
    with crystal_cif.cif_readers(1) as readers:
        salt, oxide, nothing = readers.read([*texts, "garbage"])
    assert signal.getsignal(signal.SIGINT) is handler
    same_crystal(salt, read_plain(cif("NaCl")))
    same_crystal(oxide, read_plain(cif("CaTiO3")))
    assert isinstance(nothing, Refused) and nothing.reason == "unreadable"


# The Materials Project's interface


class FakeRester:
    """Answers as MPRester(use_document_model=False) does; fails at the request ``fail_at``."""

    db_version = "2026.1.1"

    def __init__(self, fail_at=None):
        self.materials = SimpleNamespace(summary=self)
        self.asked = []
        self.fail_at = fail_at

    def search(self, material_ids=None, fields=None, chunk_size=1000, **criteria):
        if len(self.asked) == self.fail_at:
            raise RuntimeError("REST query returned with error status code 502 on URL ...")
        self.asked.append(material_ids or criteria)
        if material_ids is None:
            return [{"material_id": name} for name in NAMES]
        assert chunk_size == len(material_ids)
        documents = {
            name: {
                "material_id": name,
                "structure": structure_dict(name),
                "formation_energy_per_atom": CRYSTALS[name][4],
                "energy_above_hull": 0.0,
                "band_gap": None,
                "nsites": len(CRYSTALS[name][2]),
            }
            for name in reversed(NAMES)
        }
        return [document for name, document in documents.items() if name in material_ids]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(materials_api, "CHUNK", 1)
    monkeypatch.setenv("MP_API_KEY", KEY)

    def use(fake):
        keys = []
        monkeypatch.setattr(materials_api, "open_rester", lambda key: keys.append(key) or fake)
        return keys

    return use


def test_the_interface_is_asked_in_chunks_and_after_a_failure_goes_on(tmp_path, server):
    first = FakeRester(fail_at=3)
    server(first)
    with pytest.raises(ConnectionError, match="502.*2 of 4 crystals are here.*call again"):
        MaterialsProject(tmp_path)
    assert first.asked == [{"deprecated": False}, ["NaCl"], ["CaTiO3"]]
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["00000.json.gz", "00001.json.gz", "request.json"]
    second = FakeRester()
    keys = server(second)
    data = MaterialsProject(tmp_path, api_key="mine")
    assert keys == ["mine"] and second.asked == [["Fe"], ["ZrO2"]]
    check_whole(data)
    assert data[3].nsites.tolist() == [6.0] and "band_gap" not in data.properties
    # All is here now: neither key nor server is needed.
    server(None)
    check_whole(MaterialsProject(tmp_path, force_reload=True))
    assert b"mine" not in pickle.dumps(data)
    assert all(b"mine" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_criteria_and_ids_can_be_given_and_unknown_ids_are_named(tmp_path, server):
    fake = FakeRester()
    server(fake)
    search = {"elements": ["O"], "energy_above_hull": (0, 0.1)}
    check_whole(MaterialsProject(tmp_path / "a", search=search))
    assert fake.asked[0] == {"deprecated": False, **search}
    with pytest.warns(UserWarning, match=r"1 not in the Materials Project \(mp-0\)"):
        some = MaterialsProject(tmp_path / "b", search={"material_ids": ["Fe", "mp-0"]})
    assert [crystal.material_id for crystal in some] == ["Fe"]
    with pytest.warns(UserWarning, match="was made with search"):
        MaterialsProject(tmp_path / "b")


def test_a_database_that_changes_half_way_is_told(tmp_path, server):
    server(FakeRester(fail_at=2))
    with pytest.raises(ConnectionError):
        MaterialsProject(tmp_path)
    later = FakeRester()
    later.db_version = "2026.2.2"
    server(later)
    with pytest.warns(UserWarning, match="version 2026.2.2 now and the first chunks are of 2026.1"):
        check_whole(MaterialsProject(tmp_path))


def test_without_a_key_it_is_said_where_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    settings = pytest.importorskip("pymatgen.core").SETTINGS
    monkeypatch.setitem(settings, "PMG_MAPI_KEY", "")
    with pytest.raises(ValueError, match="https://next-gen.materialsproject.org/api"):
        MaterialsProject(tmp_path)
    monkeypatch.setitem(settings, "PMG_MAPI_KEY", "from-settings")
    assert materials_api.find_key() == "from-settings"
    assert materials_api.find_key("given") == "given"


@pytest.mark.parametrize(
    "told, kind, message",
    [
        ("REST query returned with error status code 401 on URL", ValueError, "refused the key"),
        ("Please obtain a valid API key from", ValueError, "get a valid one at"),
        ("invalid fields requested: ['heat']", ValueError, "refused the question"),
        ("connection reset", ConnectionError, "nothing is here yet"),
    ],
)
def test_errors_of_the_interface_are_told_apart(tmp_path, server, told, kind, message):
    class Failing(FakeRester):
        def search(self, **_):
            raise RuntimeError(told)

    server(Failing())
    with pytest.raises(kind, match=message):
        MaterialsProject(tmp_path)


@pytest.mark.slow  # importing mp-api takes some seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mp_api_knows_the_arguments_that_it_is_given():
    summary = pytest.importorskip("mp_api.client.routes.materials.summary")
    import inspect

    known = inspect.signature(summary.SummaryRester.search).parameters
    assert {"material_ids", "fields", "chunk_size", "deprecated"} <= known.keys()
    fields = summary.SummaryRester.document_model.model_fields
    assert set(materials_api.FIELDS) <= fields.keys()


# Single files


def test_single_structures_of_any_format(tmp_path):
    core = pytest.importorskip("pymatgen.core")
    atoms = ase.build.fcc111("Cu", (1, 1, 3), vacuum=8.0)
    atoms.info.clear()
    atoms.write(tmp_path / "slab.xyz", format="extxyz")
    [slab] = read_crystals(tmp_path / "slab.xyz")
    assert slab.pbc.tolist() == [[True, True, False]] and slab.z.tolist() == [29] * 3
    assert slab.cell.shape == (1, 3, 3) and abs(torch.linalg.det(slab.cell[0])) > 1
    ase.build.bulk("NaCl", "rocksalt", 5.64).write(tmp_path / "POSCAR")
    structure = core.Structure.from_dict(structure_dict("ZrO2"))
    (tmp_path / "zro2.json").write_text(structure.to_json())
    (tmp_path / "two.json").write_text(json.dumps([structure_dict("Fe"), structure_dict("NaCl")]))
    (tmp_path / "x.cif.gz").write_bytes(gzip.compress(cif("CaTiO3").encode()))
    found = {
        name: [(data.material_id, data.z.tolist()) for data in read_crystals(tmp_path / name)]
        for name in ("POSCAR", "zro2.json", "two.json", "x.cif.gz")
    }
    assert found == {
        "POSCAR": [("POSCAR", [11, 17])],
        "zro2.json": [("zro2.json", [40, 40, 8, 8, 8, 8])],
        "two.json": [("two.json:0", [26]), ("two.json:1", [11, 17])],
        "x.cif.gz": [("x.cif.gz", [20, 22, 8, 8, 8])],
    }


@pytest.mark.parametrize("name", [*BAD])
def test_single_bad_structures_are_errors_that_name_the_file(tmp_path, name):
    pytest.importorskip("pymatgen.core")
    reason, text = BAD[name]
    path = tmp_path / f"{name}.cif"
    path.write_text(text)
    if name == "lonely":  # a model without neighbours still answers
        assert len(list(read_crystals(path))) == 1
        return
    with pytest.raises(ValueError, match=f"{name}.cif.*{reason if name != 'empty' else ''}"):
        list(read_crystals(path))


def test_single_files_that_are_no_crystals(tmp_path):
    ase.build.molecule("H2O").write(tmp_path / "water.xyz")
    with pytest.raises(ValueError, match="water.xyz, structure 0: no cell"):
        list(read_crystals(tmp_path / "water.xyz"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(read_crystals(tmp_path / "no.cif"))
    (tmp_path / "cut.json").write_text(json.dumps(structure_dict("Fe"))[:-9])
    with pytest.raises(ValueError, match="cut.json is cut off"):
        list(read_crystals(tmp_path / "cut.json"))


# The shared sets, where they are


@pytest.mark.parametrize(
    "name, target, mean, elements",
    [
        ("mp20_subset", "formation_energy_per_atom", -1.212, 85),
        ("perov5", "heat_all", 1.475, 56),
        ("carbon24", "energy_per_atom", -154.250, 1),
        ("mp_perovskite", "formation_energy_per_atom", -1.377, 84),
        ("mp_cgcnn3402", "formation_energy_per_atom", -0.877, 63),
    ],
)
def test_real_tables_agree_with_what_pymatgen_read_of_them(tmp_path, name, target, mean, elements):
    table, arrays = SHARED / name / f"{name}.csv.gz", SHARED / name / f"{name}.npz"
    if not table.is_file():
        pytest.skip("no shared crystals here")
    data = MaterialsProject(tmp_path / "a", target, table, isolated="keep")
    theirs = MaterialsProject(tmp_path / "b", target, arrays, isolated="keep")
    assert list(data._data.material_id) == list(theirs._data.material_id)
    assert_close(data._data.y, theirs._data.y, rtol=0, atol=1e-12)
    assert data._data.y.mean().item() == pytest.approx(mean, abs=0.05)
    assert elements - 3 <= len(data._data.z.unique()) <= elements
    assert torch.equal(data.slices["pos"], theirs.slices["pos"])
    assert_close(data._data.cell, theirs._data.cell, rtol=1e-6, atol=1e-5)
    for k in range(0, len(data), 9):
        ours, other = as_crystal(data[k]), as_crystal(theirs[k])
        # pymatgen rounds 0.33333 to a third, at most 1e-4 of the cell.
        same_crystal(
            ours, other, atol=1e-4 * float(np.linalg.norm(other.cell, axis=1).max()) + 1e-4
        )


def as_crystal(data):
    return SimpleNamespace(
        z=data.z.numpy(), pos=data.pos.double().numpy(), cell=data.cell[0].double().numpy()
    )


def test_the_isolated_atom_of_mp_20_is_found(tmp_path):
    arrays = SHARED / "mp20_subset" / "mp20_subset.npz"
    if not arrays.is_file():
        pytest.skip("no shared crystals here")
    with pytest.warns(UserWarning, match=r"1 of 1798 crystals .* 1 isolated atom \(mp-604321\)"):
        assert len(MaterialsProject(tmp_path, raw=arrays)) == 1797
