import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import read, write
from helpers import methanol, skewed_crystal, small_schnet, water

from pyg_schnet import DTNN, Ensemble, Potential, SchNet, save
from pyg_schnet.analysis import energy_partition
from pyg_schnet.analysis.commands import parsers, run
from pyg_schnet.analysis.energy_partition import (
    Partition,
    agreement,
    atom_contributions,
    element_statistics,
    plot_partition,
)

MODELS = {
    "schnet": lambda: small_schnet(mean=-3.0, std=2.0, atomref=torch.linspace(0.0, -9.0, 100)),
    "mean": lambda: small_schnet(readout="mean", mean=-3.0, std=2.0),
    "none": lambda: small_schnet(cutoff_fn="none"),
    "scaled": lambda: scaled(),
    "dtnn": lambda: DTNN(8, 9, 2, 12, 4.0, cutoff_fn="cosine", mean=1.0, seed=0).double(),
}


def scaled():
    model = small_schnet(mean=-1.0)
    model.readout.scale.fill_(0.7)
    return model


def energy(model, data):
    given = {name: data[name] for name in ("cell", "pbc") if name in data}
    with torch.no_grad():
        return float(model(data.z, data.pos, **given, dtype=torch.float64))


@pytest.mark.parametrize("case", MODELS)
def test_contributions_add_up_to_the_prediction(case):
    model = MODELS[case]()
    structures = [water(), methanol()] + [skewed_crystal()] * (case != "none") + [water()]
    found = atom_contributions(Potential(model) if case != "mean" else model, structures)
    wanted = [energy(model, data) for data in structures]
    np.testing.assert_allclose(found.totals(), [wanted], rtol=1e-10, atol=1e-10)
    assert found.values.shape == (1, sum(len(data.z) for data in structures))
    assert found.num_structures == len(structures) and found.unit == "eV"
    assert found.readout == ("mean" if case == "mean" else "add")


def test_contributions_are_those_of_the_model_and_small_batches_change_nothing(monkeypatch):
    model, structures = MODELS["schnet"](), [water(), methanol(), skewed_crystal()]
    found = atom_contributions(model, structures)
    assert found.z.tolist() == [8, 1, 1, 8, 6, 1, 1, 1, 1, 11, 17, 8, 6]
    assert found.structure.tolist() == [0] * 3 + [1] * 6 + [2] * 4
    alone = model.atomwise(structures[1].z, structures[1].pos)[:, 0].detach().numpy()
    np.testing.assert_allclose(found.values[0, 3:9], alone, rtol=1e-12)
    np.testing.assert_allclose(found.of("C")[0], [alone[1], found.values[0, 12]], rtol=1e-12)
    monkeypatch.setattr(energy_partition, "_ATOMS_AT_ONCE", 7)
    again = atom_contributions(model, structures)
    np.testing.assert_allclose(again.values, found.values, rtol=1e-12)


def test_constants_of_large_energies_are_kept_in_single_precision():
    model = SchNet(8, 8, 1, 8, 4.0, mean=-1000.0, seed=0)
    head = model.readout
    data = methanol(torch.float32)
    found = atom_contributions(model, [data])
    with torch.no_grad():
        learned = head.learned(model.features(data.z, data.pos))[:, 0].double().numpy()
    np.testing.assert_allclose(found.values[0] + 1000.0, learned, atol=1e-9)


def test_statistics_are_those_of_each_element():
    models = [small_schnet(seed=k) for k in (1, 2)]
    structures = [molecule(name) for name in ("CH3CH2OH", "C6H6", "H2O", "CH3OH")]
    found = atom_contributions(models, structures)
    known = element_statistics(found)
    z = np.concatenate([one.numbers for one in structures])
    assert known.elements.tolist() == [1, 6, 8]
    assert known.count.tolist() == [(z == k).sum() for k in (1, 6, 8)]
    for column, element in enumerate((1, 6, 8)):
        for row in range(2):
            values = [v for v, of in zip(found.values[row], z) if of == element]
            assert known.mean[row, column] == pytest.approx(np.mean(values))
            assert known.std[row, column] == pytest.approx(np.std(values))


def test_agreement_is_blind_to_constants_of_elements():
    structures = [molecule(name) for name in ("CH3CH2OH", "C6H6", "H2O", "CH3OH")]
    one, shifted, other = small_schnet(), small_schnet(), small_schnet(seed=5)
    shifted.readout.set_statistics(atomref=torch.linspace(0.0, -50.0, 100))
    found = atom_contributions([one, shifted, other], structures)
    alike = agreement(found)
    np.testing.assert_allclose(alike.rms[:, 0, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(alike.correlation[:, 0, 1], 1.0, rtol=1e-9)
    for place, element in enumerate(alike.elements):
        part = found.of(int(element))
        wanted = np.corrcoef(part)
        np.testing.assert_allclose(alike.correlation[place], wanted, rtol=1e-9)
        difference = part[0] - part[2]
        assert alike.rms[place, 0, 2] == pytest.approx(difference.std())
        assert alike.rms[place, 2, 0] == alike.rms[place, 0, 2] > 1e-4


def test_atoms_that_are_all_the_same_have_no_correlation():
    models = [small_schnet(seed=k) for k in (1, 2)]
    found = atom_contributions(models, [molecule("H2"), bulk("Cu", a=3.6)])
    assert np.isnan(agreement(found).correlation).all()
    np.testing.assert_allclose(agreement(found).rms, 0.0, atol=1e-12)


def test_distributions_are_drawn(tmp_path):
    structures = [molecule(name) for name in ("CH3CH2OH", "C6H6", "CH3SH", "CH3NO2", "CH3OH")]
    found = atom_contributions([small_schnet(seed=k) for k in (1, 2)], structures)
    assert plot_partition(found, tmp_path / "a.png", ["one", "two"]).stat().st_size > 5000
    single = atom_contributions(small_schnet(), [molecule("H2")])
    assert plot_partition(single, tmp_path / "b.pdf").read_bytes()[:4] == b"%PDF"
    with pytest.raises(ValueError, match="names must be 2"):
        plot_partition(found, tmp_path / "c.png", ["one"])


def test_what_has_no_contributions_is_refused():
    with pytest.raises(ValueError, match="head='dipole'"):
        atom_contributions(small_schnet(head="dipole"), [water()])
    with pytest.raises(ValueError, match="several properties"):
        atom_contributions(small_schnet(out_channels=2), [water()])
    with pytest.raises(ValueError, match="compare like ones"):
        atom_contributions([small_schnet(), small_schnet(readout="mean")], [water()])
    with pytest.raises(ValueError, match="models is empty"):
        atom_contributions([], [water()])
    with pytest.raises(ValueError, match="structures is empty"):
        atom_contributions(small_schnet(), [])
    with pytest.raises(ValueError, match="Structure 1 has no atom"):
        atom_contributions(small_schnet(), [water(), molecule("H2")[:0]])
    with pytest.raises(ValueError, match="two at least"):
        agreement(Partition(np.array([1]), np.array([0]), np.ones((1, 1)), "add", "eV"))


def test_it_is_a_command_for_several_models_and_for_ensembles(tmp_path):
    pytest.importorskip("jsonargparse")
    members = [small_schnet(seed=k) for k in (1, 2)]
    save(Ensemble(members), tmp_path / "many.safetensors")
    save(small_schnet(), tmp_path / "one.safetensors")
    write(tmp_path / "a.xyz", [molecule("CH3OH"), molecule("C6H6")])
    words = ["--model", f"{tmp_path}/many.safetensors,{tmp_path}/one.safetensors"]
    words += ["--structure", f"{tmp_path}/a.xyz", "--out", f"{tmp_path}/a.png"]
    options = parsers()["energy-partition"].parse_args(words)
    written = run("energy-partition", options, read)
    assert written == [tmp_path / "a.png"] and written[0].stat().st_size > 5000
    with pytest.raises(ValueError, match="--structure"):
        run("energy-partition", parsers()["energy-partition"].parse_args(words[:2]), read)
