import math

import pytest

from pyg_schnet.training.config import TrainingConfig, seconds
from pyg_schnet.training.schedules import Schedule


def test_exponential_is_the_papers_decay():
    schedule = Schedule("exponential", lr=1e-3)
    assert schedule.at(0) == 1e-3
    assert schedule.at(250_000) == pytest.approx(1e-3 * 0.96**2.5, rel=1e-12)


def test_cosine_follows_steps_or_time_whichever_is_further():
    schedule = Schedule("cosine", lr=2.0, min_lr=1.0, max_steps=100, max_seconds=10.0)
    assert schedule.at(50, elapsed=0.0) == pytest.approx(1.5)
    assert schedule.at(0, elapsed=7.5) == pytest.approx(1 + 0.5 * (1 + math.cos(0.75 * math.pi)))
    assert schedule.at(100, elapsed=99.0) == pytest.approx(1.0)


def test_warm_restarts_begin_again_at_the_full_rate():
    schedule = Schedule("sgdr", lr=1.0, restart_steps=10)
    assert schedule.at(10) == schedule.at(0) == 1.0
    assert schedule.at(5) == pytest.approx(0.5)


def test_constant_stays():
    assert Schedule("constant", lr=0.5).at(10**6) == 0.5


def test_an_unknown_schedule_and_an_endless_cosine_are_refused():
    with pytest.raises(ValueError, match="schedule must be one of exponential, cosine"):
        Schedule("linear", lr=1.0)
    with pytest.raises(ValueError, match="needs an end"):
        Schedule("cosine", lr=1.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90s", 90.0),
        ("8m", 480.0),
        ("1.5h", 5400.0),
        ("01:30:00", 5400.0),
        ("480", 480.0),
        (None, None),
    ],
)
def test_times_are_read(text, value):
    assert seconds(text) == value


def test_a_time_that_is_none_is_refused():
    with pytest.raises(ValueError, match="max_time must look like"):
        seconds("soon")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "8"),
        ("loss", "huge"),
        ("readout", "max"),
        ("batch_size", 0),
        ("ema", 1.0),
        ("max_time", "x"),
    ],
)
def test_bad_options_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        TrainingConfig(**{field: value})
