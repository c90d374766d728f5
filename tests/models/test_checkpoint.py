import json
import pickle

import pytest
import torch
from helpers import small_schnet
from safetensors.torch import save_file

from pyg_schnet import Potential, SchNet, load, save
from pyg_schnet.models import read_header
from pyg_schnet.ops import Grid


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared_filters": True, "normalize": "neighbors"},
        {"mean": -3.0, "std": 2.0, "atomref": torch.arange(100.0), "readout": "mean"},
        {"dipole": True, "filter_activation": "ssp", "cutoff_fn": "none", "gamma": 10.0},
    ],
)
def test_loaded_model_predicts_the_same_to_the_last_bit(options, ch3oh, tmp_path, dtype):
    model = small_schnet(dtype, **options)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert not again.training
    pos = ch3oh.pos.to(dtype)
    assert torch.equal(again(ch3oh.z, pos), model(ch3oh.z, pos))
    assert again.config == model.config


def test_potential_comes_back_with_its_wishes(crystal, tmp_path):
    pot = Potential(small_schnet(mean=-1e4), stress=True).eval()
    save(pot, tmp_path / "deep" / "er" / "pot.safetensors")
    again = load(tmp_path / "deep" / "er" / "pot.safetensors")
    assert isinstance(again, Potential) and (again.forces, again.stress) == (True, True)
    for name, value in pot(crystal).items():
        assert torch.equal(again(crystal)[name], value)


def test_dtype_can_be_changed_while_loading_but_not_of_the_constants(tmp_path):
    save(small_schnet(mean=-1e4 / 3), tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors", dtype=torch.float32)
    assert model.embedding.weight.dtype == torch.float32
    assert float(model.readout.mean) == -1e4 / 3


def test_info_travels_in_the_header(tmp_path):
    info = {"target": "U0", "unit": "eV", "errors": {"mae": 0.012}}
    save(small_schnet(torch.float32), tmp_path / "m.safetensors", info=info)
    header = read_header(tmp_path / "m.safetensors")
    assert header["info"] == info
    assert (header["version"], header["model"], header["dtype"]) == (1, "SchNet", "float32")


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    model = small_schnet()
    model.seed = None
    save(model, tmp_path / "m.safetensors")
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    load(tmp_path / "m.safetensors")
    assert torch.equal(torch.rand(2), want)


def test_failed_save_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "m.safetensors"
    save(small_schnet(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(small_schnet(), path, info={"callable": print})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save(small_schnet(), path)
    before = path.read_bytes()

    def breaks(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("pyg_schnet.models.checkpoint.save_model", breaks)
    with pytest.raises(OSError, match="disk full"):
        save(small_schnet(seed=2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_other_modules_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="save takes a SchNet or DTNN, or a Potential or .*, got Linear"
    ):
        save(torch.nn.Linear(2, 2), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="interaction_graph cannot be written"):
        save(small_schnet(interaction_graph=lambda p, b: None), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nowhere"):
        load(tmp_path / "nowhere.safetensors")


def test_pickles_and_cut_files_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    torch.save(small_schnet().state_dict(), path)
    with pytest.raises(ValueError, match="pickles are never loaded"):
        load(path)
    path.write_bytes(pickle.dumps({"weights": [1, 2]}))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(path)
    save(small_schnet(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        load(path)


def test_safetensors_of_others_are_refused(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="not a checkpoint of pyg_schnet"):
        load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(("key", "value"), [("version", 99), ("model", "Transformer")])
def test_newer_formats_are_refused_with_the_mend(key, value, tmp_path):
    header = {"version": 1, "model": "SchNet", key: value}
    metadata = {"pyg_schnet": json.dumps(header)}
    save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="install a newer pyg_schnet"):
        load(tmp_path / "m.safetensors")


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path):
    model = small_schnet()
    header = {
        "version": 1,
        "model": "SchNet",
        "config": {**model.config, "num_filters": 11},
        "dtype": "float64",
        "potential": None,
        "info": {},
    }
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "m.safetensors", metadata={"pyg_schnet": json.dumps(header)})
    with pytest.raises(ValueError, match="do not fit the configuration"):
        load(tmp_path / "m.safetensors")


def test_trained_state_of_another_architecture_is_refused_by_load_state_dict():
    with pytest.raises(RuntimeError, match="size mismatch"):
        SchNet(16, 16, 1, 10).load_state_dict(SchNet(16, 8, 1, 10).state_dict())


def test_a_loaded_model_keeps_the_grid_of_its_filters(tmp_path):
    model = SchNet(16, 16, 1, 10, 5.0)
    model._table.grids[torch.float32] = Grid.covering(5.0, 0.03)
    save(model, tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors")._table.grids == model._table.grids


@pytest.mark.parametrize("wrap", [lambda model: model, Potential])
def test_what_is_known_of_a_model_comes_back_with_it(tmp_path, wrap):
    save(wrap(SchNet(8, 8, 1, 10, 5.0)), tmp_path / "m.safetensors", {"elements": ["H"]})
    assert load(tmp_path / "m.safetensors").info == {"elements": ["H"]}


def test_a_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    save(SchNet(8, 8, 1, 10, 5.0), tmp_path / "m.safetensors")
    usual, found = ((tmp_path / name).stat().st_mode for name in ("usual", "m.safetensors"))
    assert found == usual
