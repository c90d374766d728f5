"""The gallery as a page of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyg_schnet.benchmarks.gallery.entries import NOT_MEANT, Section
from pyg_schnet.benchmarks.gallery.models import MODELS

_HEAD = """# Gallery

Every analysis of the papers, on models of this repository and real data. This page is written by

```
pyg-schnet benchmark gallery --qm9 FOLDER_OF_QM9 --mp20 mp20_subset.csv.gz
```

run in the folder of the repository, which trains what is missing, runs the commands below and
shrinks their figures; `pip install ".[train,analysis]"` brings what it needs. Each command can be
run by itself. `--out` takes .pdf and .svg too, and .html for what can be turned and pointed at:
chemical potentials, embeddings, filters by distance. The functions behind the commands, in
`pyg_schnet.analysis`, return arrays.
"""


def page(sections: Sequence[Section], metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The whole page.

    Args:
        sections: In their order.
        metrics: Of the runs of each model that was trained.
    """
    parts = [_HEAD, _models(metrics)]
    for section in sections:
        parts.append(f"## {section.title}\n\n{section.text}\n")
        for entry in section.entries:
            commands = "\n".join(entry.lines)
            parts.append(
                f"![{entry.alt}](images/gallery/{entry.name}.png)\n\n{entry.text}\n\n"
                f"```\n{commands}\n```\n"
            )
    rows = "\n".join(f"| {what} | {why} |" for what, why in NOT_MEANT)
    parts.append(
        f"## What is not meant for what\n\n| analysis | not for |\n| --- | --- |\n{rows}\n"
    )
    return "\n".join(parts)


def _models(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = [
        "## Models\n",
        "`md17-*` and `qm9-U0` come with the package "
        "([how they were trained](../pyg_schnet/pretrained)). The others:\n",
        "| folder | what of | trained on | test error |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in metrics.items():
        model, first = MODELS[name], found[0]
        folder = str(model.folders[0])
        if len(found) > 1:
            folder = folder[:-1] + f"{{{','.join(map(str, model.seeds))}}}"
        errors = ", ".join(f"{one['test_mae']:.3g}" for one in found)
        lines.append(
            f"| `{folder}` | {model.words} | {first['n_train']:,} | {errors} {first['unit']} |"
        )
    commands = "\n".join(dict.fromkeys(MODELS[name].command for name in metrics))
    words = (
        "By themselves they are trained by these, with `--raw` where data are not processed yet:"
    )
    return "\n".join(lines) + f"\n\n{words}\n\n```\n{commands}\n```\n"
