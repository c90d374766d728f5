import importlib.util
import os
import shutil

import pytest

pytest.importorskip("numba")

from pyg_schnet.ops.backends.cpu import threads

INNER = """
from numba import njit

@njit
def amount():
    return {}
"""
OUTER = """
from numba import njit
from {inner} import amount
from pyg_schnet.ops.backends.cpu.simd import fetch_add

def add(args):
    fetch_add(args, amount())
"""


def result(folder) -> int:
    """What a kernel of the file there adds to its counter, compiled or from the disk."""
    spec = importlib.util.spec_from_file_location("outer", folder / "outer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return threads.Kernel(module.add)(1, 1)[0]


def test_a_kernel_is_compiled_again_when_a_file_it_is_made_of_changes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    old = 1_000_000_000

    def write(number, age):
        inner = tmp_path / f"inner_{number}.py"
        inner.write_text(INNER.format(number))
        (tmp_path / "outer.py").write_text(OUTER.format(inner=inner.stem))
        for path in tmp_path.glob("*.py"):
            os.utime(path, (old + age, old + age))
        threads._newest.cache_clear()

    write(3, 0)
    assert result(tmp_path) == 3
    # Another file of the same name and size: the own file is as old and as long as it was.
    write(5, 0)
    assert result(tmp_path) == 3
    indices = list((tmp_path / "__pycache__").glob("*.nbi"))
    assert len(indices) == 1
    os.utime(tmp_path / "inner_5.py", (old + 20, old + 20))
    os.utime(indices[0], (old + 10, old + 10))
    threads._newest.cache_clear()
    assert result(tmp_path) == 5
    shutil.rmtree(tmp_path / "__pycache__")
