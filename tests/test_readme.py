"""What the README shows runs, and its commands exist."""

import re
from pathlib import Path

import pytest

from pyg_schnet.cli import parser
from pyg_schnet.cli.arguments import with_paths_joined, with_underscores

TEXT = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(block, names)
    assert names["energy"].shape == (1, 1) and names["x"].shape == (2, 16)


def commands():
    for line in re.findall(r"^pyg-schnet (.*?)(?:\s+#.*)?$", TEXT, flags=re.MULTILINE):
        if "|" not in line:
            yield line


@pytest.mark.parametrize("line", list(commands()))
def test_the_commands_of_the_readme_are_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options.yaml").write_text("lr: 0.001\n")
    options = parser().parse_args(with_paths_joined(with_underscores(line.split())))
    assert options.verb == line.split()[0]


def test_the_commands_of_the_makefile_are_those_of_the_readme():
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile
