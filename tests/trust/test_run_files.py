"""The files of a run, damaged: told in one sentence when it is gone on with or evaluated."""

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_frames import write_md17
from trust.damage import QUICK, damaged, numbers_replaced, told

from pyg_schnet.datasets import MD17
from pyg_schnet.training.ensembles import finished
from pyg_schnet.training.force_config import MD17Config
from pyg_schnet.training.force_tasks import md17_task
from pyg_schnet.training.run import _steps_done
from pyg_schnet.training.splits import Split
from pyg_schnet.training.tasks import read_config, train_task


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = MD17Config(
        root=str(folder / "data"),
        train_size=20,
        val_size=8,
        test_size=8,
        hidden_channels=4,
        num_filters=4,
        num_interactions=1,
        num_gaussians=5,
        batch_size=8,
        max_steps=2,
        val_every=2,
        log_every=2,
        tensorboard=False,
        accelerator="cpu",
    )
    data = MD17(config.root, "ethanol", raw=write_md17(folder / "md17_ethanol.npz", 40))
    train_task(md17_task(config, data), config, folder)
    return folder


READERS = {
    "last.ckpt": lambda folder: _steps_done(folder / "last.ckpt"),
    "split.npz": lambda folder: Split.load(folder / "split.npz"),
    "config.yaml": read_config,
    "metrics.json": finished,
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_of_a_run_is_told(run, name):
    path = run / name
    whole = path.read_bytes()
    contents = damaged(whole)
    if name.endswith((".yaml", ".json")):
        contents = st.one_of(contents, numbers_replaced(whole))

    @QUICK
    @given(contents)
    def ends_well(content):
        path.write_bytes(content)
        told(lambda: READERS[name](run), path.name, "The split uses some rows more than once")

    try:
        ends_well()
        path.write_bytes(b"")
        assert told(lambda: READERS[name](run), path.name)
    finally:
        path.write_bytes(whole)


def test_turned_bits_in_a_point_to_resume_from_are_noticed(run):
    path = run / "last.ckpt"
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)["state_dict"]
    noticed = 0
    try:
        for place in range(len(whole) // 4, len(whole) // 2, len(whole) // 40):
            changed = bytearray(whole)
            changed[place] ^= 64
            path.write_bytes(changed)
            if told(lambda: _steps_done(path), path.name):
                noticed += 1
                continue
            # Between the members, where nothing stands.
            now = torch.load(path, weights_only=True)["state_dict"]
            assert all(torch.equal(now[name], state[name]) for name in state)
    finally:
        path.write_bytes(whole)
    assert noticed


def test_a_configuration_that_names_python_objects_is_refused(run, tmp_path):
    path, mark = run / "config.yaml", tmp_path / "mark"
    whole = path.read_text()
    try:
        path.write_text(f"{whole}name: !!python/object/apply:pathlib.Path.touch\n- {mark}\n")
        assert told(lambda: read_config(run), path.name)
        path.write_text(yaml.safe_dump({**yaml.safe_load(whole), "hidden_channels": "many"}))
        assert "hidden_channels" in told(lambda: read_config(run), path.name)
    finally:
        path.write_text(whole)
    assert not mark.exists()
