"""Runs the comparisons, prints a table, and writes it with the facts of the machine."""

import json
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch_geometric import __version__ as pyg_version

from pyg_schnet.benchmarks.speed import dynamics, kernels, loading, neighbors, work
from pyg_schnet.benchmarks.speed.peers import HINT, SchNetPack
from pyg_schnet.benchmarks.speed.rows import ROWS, Row
from pyg_schnet.benchmarks.speed.timing import added_memory, compare
from pyg_schnet.ops import choose_backend

GROUPS = ("inference", "training", "dynamics", "kernels", "loading", "neighbors", "scaling")


def run(
    groups: Sequence[str] = GROUPS,
    output: Path | None = None,
    seconds: float = 4.0,
    device: str = "cpu",
    schnetpack_python: str | Path | None = None,
) -> dict[str, Any]:
    """Measure and print; write ``speed_DEVICE.json`` and ``.md`` into ``output`` if given.

    Groups of an earlier record there that are not measured now are kept, with the facts of their
    time under ``facts_of``.

    Args:
        groups: Some of :data:`GROUPS`.
        output: Folder.
        seconds: For each row.
        device: "cpu" or "cuda".
        schnetpack_python: Python of an environment where SchNetPack 2 is installed; inference and
            training are compared with it too. Where it fails, the rows say why.

    Raises:
        ValueError: If a group is unknown.
    """
    unknown = set(groups) - set(GROUPS)
    if unknown:
        raise ValueError(f"groups must be among {', '.join(GROUPS)}, got {', '.join(unknown)}.")
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"facts": facts(device)}
    print("  ".join(f"{key} {value}" for key, value in result["facts"].items()))
    rows = [row for row in ROWS if row.group in groups]
    peer = None if schnetpack_python is None else SchNetPack(schnetpack_python)
    if rows:
        print(
            f"{'':66}{'PyG ms':>10}{'ours ms':>10}{'ratio':>8}{'quartiles':>14}{'bar':>6}"
            f"{'SchNetPack':>12}"
        )
        result["rows"] = [measured(row, seconds, device, peer) for row in rows]
        if peer is None:
            print(HINT)
        elif peer.facts is not None:
            result["facts"]["schnetpack"] = peer.facts
    if "dynamics" in groups:
        result["dynamics"] = dynamics.measure(device, seconds, peer)
    sections = {"kernels": kernels.measure, "neighbors": neighbors.measure}
    for name, section in sections.items():
        if name in groups:
            result[name] = section(device=device)
    if "loading" in groups and device == "cpu":
        result["loading"] = loading.measure()
    if "scaling" in groups:
        from pyg_schnet.benchmarks.speed import scaling

        result["scaling"] = scaling.measure(device, output)
    if output is not None:
        _write(_with_earlier(result, groups, Path(output), device), Path(output), device)
    return result


def measured(
    row: Row, seconds: float, device: str, peer: SchNetPack | None = None
) -> dict[str, Any]:
    """One row: times, ratio, the added memory if asked, and the peer if there is one."""
    system = row.system().to(device)
    ours, theirs = row.task(system, *work.models(system, row.blocks, row.features, row.cutoff))
    found: dict[str, Any] = {
        "group": row.group,
        "name": row.name,
        "T": row.blocks,
        "F": row.features,
        "edges": system.edge_index.size(1),
    }
    if row.memory:
        # Ours first: what theirs leaves behind would hide it.
        found["memory_ours_mib"] = added_memory(ours)
        found["memory_theirs_mib"] = added_memory(theirs)
    comparison = compare(ours, theirs, seconds)
    found |= comparison.as_dict()
    found["bar"] = row.bar if device == "cpu" else None
    if peer is not None:
        found["schnetpack"] = peer.measure(row, system, ours, seconds)
    name = f"{row.group}: {row.name} T={row.blocks} F={row.features}"
    c = comparison
    spread = f"{c.low:.1f}-{c.high:.1f}"
    print(
        f"{name:66}{c.theirs:10.2f}{c.ours:10.3f}{c.ratio:8.1f}{spread:>14}{row.bar or 0:6.1f}"
        f"{_against_schnetpack(found):>12}"
    )
    if problem := _problem(found):
        print(f"  {problem}")
    if found.get("memory_ours_mib") is not None:
        a, b = found["memory_theirs_mib"], found["memory_ours_mib"]
        print(f"{'  added memory, MiB':66}{a:10.0f}{b:10.0f}{a / max(b, 1e-9):8.1f}")
    sys.stdout.flush()
    return found


def _against_schnetpack(found: dict[str, Any]) -> str:
    ratio = found.get("schnetpack", {}).get("ratio")
    return "-" if ratio is None else f"{ratio:.1f}"


def _problem(found: dict[str, Any]) -> str | None:
    peer = found.get("schnetpack", {})
    return peer.get("failure") or peer.get("disagreement")


def facts(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "pyg": pyg_version,
        "backend": choose_backend(torch.device(device)),
    }


def _with_earlier(
    result: dict[str, Any], groups: Sequence[str], folder: Path, device: str
) -> dict[str, Any]:
    """The result with what an earlier record has of other groups."""
    path = folder / f"speed_{device}.json"
    if not path.is_file():
        return result
    earlier = json.loads(path.read_text())
    facts_of = earlier.get("facts_of", {})
    kept = {}
    for group in (group for group in GROUPS if group not in groups):
        rows = [row for row in earlier.get("rows", ()) if row["group"] == group]
        if rows:
            result["rows"] = sorted(
                [*result.get("rows", ()), *rows], key=lambda row: GROUPS.index(row["group"])
            )
        elif group in earlier:
            result[group] = earlier[group]
        else:
            continue
        kept[group] = facts_of.get(group, earlier["facts"])
    return result | ({"facts_of": kept} if kept else {})


def _write(result: dict[str, Any], folder: Path, device: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# Speed against PyG's SchNet on {result['facts']['device']}", ""]
    lines += [f"- {key}: {value}" for key, value in result["facts"].items()]
    for group, known in result.get("facts_of", {}).items():
        other = {k: v for k, v in known.items() if v != result["facts"].get(k)}
        said = ", ".join(f"{key} {value}" for key, value in other.items()) or "the same"
        lines.append(f"- {group}, measured before: {said}")
    if "rows" in result:
        columns = ("work", "PyG ms", "ours ms", "ratio", "quartiles", "asked for", "SchNetPack")
        lines += ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for row in result["rows"]:
            lines.append(
                f"| {row['group']}: {row['name']}, T={row['T']} F={row['F']} "
                f"| {row['theirs']:.2f} | {row['ours']:.3f} | {row['ratio']:.1f} "
                f"| {row['low']:.1f}-{row['high']:.1f} | {row['bar'] or '-'} "
                f"| {_against_schnetpack(row)} |"
            )
        if any("schnetpack" in row for row in result["rows"]):
            lines += ["", "SchNetPack: how many times as long it takes, in turn with ours."]
            problems = [(row["name"], _problem(row)) for row in result["rows"]]
            known = (None, result["facts"].get("schnetpack"))
            lines += [f"- {name}: {problem}" for name, problem in problems if problem not in known]
        else:
            lines += ["", HINT]
    if result.get("dynamics"):
        columns = ("dynamics", "theirs ms", "ours ms", "ratio", "asked for", "ns/day theirs, ours")
        lines += ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for row in result["dynamics"]:
            days = [row.get(f"{side}_ns_per_day") for side in ("theirs", "ours")]
            shown = ", ".join("-" if day is None else f"{day:.3g}" for day in days)
            lines.append(
                f"| {row['name']} | {row['theirs']:.3f} | {row['ours']:.4f} | {row['ratio']:.1f} "
                f"| {row['bar'] or '-'} | {shown} |"
            )
        lines += [""]
        lines += [
            f"- {row['name']}: {n}" for row in result["dynamics"] for n in row.get("notes", ())
        ]
    for suffix, text in ((".json", json.dumps(result, indent=2)), (".md", "\n".join(lines))):
        path = folder / f"speed_{device}{suffix}"
        aside = path.with_name(path.name + ".part")
        aside.write_text(text + "\n")
        aside.replace(path)
        print(f"wrote {path}")
