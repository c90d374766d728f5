import inspect

import pytest
import torch
from helpers import methanol

from pyg_schnet import SchNet
from pyg_schnet.models import PRESETS
from pyg_schnet.nn import CosineCutoff, NoCutoff


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_model_that_predicts(name):
    model, data = SchNet.preset(name, num_interactions=1), methanol(torch.float32)
    assert model(data.z, data.pos).isfinite().all()
    assert PRESETS[name].source.endswith(".")
    assert set(PRESETS[name].arguments) <= set(inspect.signature(SchNet).parameters)


@pytest.mark.parametrize(
    ("name", "hidden", "interactions", "centres", "cutoff", "gamma", "layers", "envelope"),
    [
        ("neurips-2017", 64, 3, 300, 30.0, 10.0, 4, NoCutoff),
        ("jcp-2018", 64, 6, 200, 20.0, 10.0, 4, NoCutoff),
        ("chapter-2020", 128, 6, 25, 5.0, 0.5 / (5 / 24) ** 2, 3, CosineCutoff),
        ("schnetpack", 128, 6, 50, 10.0, 0.5 / (10 / 49) ** 2, 3, CosineCutoff),
        ("pyg", 128, 6, 50, 10.0, 0.5 / (10 / 49) ** 2, 3, CosineCutoff),
    ],
)
def test_presets_are_the_published_ones(
    name, hidden, interactions, centres, cutoff, gamma, layers, envelope
):
    model = SchNet.preset(name)
    assert model.hidden_channels == model.num_filters == hidden
    assert len(model.interactions) == interactions
    basis, conv = model.distance_expansion, model.interactions[0].conv
    assert basis.offset.numel() == centres
    assert float(basis.offset[-1]) == cutoff
    assert abs(float(basis.gamma) / gamma - 1) < 1e-12
    assert len(conv.nn) == layers
    assert type(conv.cutoff_fn) is envelope


def test_overrides_win_over_the_preset():
    model = SchNet.preset("neurips-2017", num_interactions=1, cutoff_fn="cosine")
    assert len(model.interactions) == 1
    assert model.filter_activation == "ssp"
    assert type(model.interactions[0].conv.cutoff_fn) is CosineCutoff


def test_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="preset must be one of 'neurips-2017'.*got 'schnet'"):
        SchNet.preset("schnet")


def test_unknown_override_is_refused():
    with pytest.raises(TypeError, match="width"):
        SchNet.preset("pyg", width=3)
