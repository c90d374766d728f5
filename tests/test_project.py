"""What holds for every public name."""

import importlib
import importlib.util
import inspect
import pkgutil

import pytest

import pyg_schnet

ROOMS = ["pyg_schnet", "pyg_schnet.nn", "pyg_schnet.models", "pyg_schnet.graph"]
ROOMS += ["pyg_schnet.interop", "pyg_schnet.datasets"]


def public_objects():
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            yield pytest.param(getattr(module, name), id=f"{room}.{name}")


@pytest.mark.parametrize("room", ROOMS)
def test_all_is_sorted_and_complete(room):
    module = importlib.import_module(room)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        assert hasattr(module, name), name


@pytest.mark.parametrize("thing", list(public_objects()))
def test_every_public_name_has_a_docstring(thing):
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return
    assert thing.__doc__ and thing.__doc__.strip()
    for name, member in vars(thing).items() if inspect.isclass(thing) else ():
        if not inspect.isfunction(member) or name.startswith("_"):
            continue
        if member.__module__ == thing.__module__:  # PyG writes `propagate` into the class
            assert member.__doc__, f"{thing.__name__}.{name} has no docstring"


def test_every_module_says_what_it_is_about():
    for info in pkgutil.walk_packages(pyg_schnet.__path__, "pyg_schnet."):
        spec = importlib.util.find_spec(info.name)
        source = spec.loader.get_source(info.name)
        assert not source.strip() or source.lstrip().startswith(('"""', 'r"""')), info.name


def test_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    assert pyg_schnet.__version__ == version("pyg_schnet")
