"""Stages of a study, each with a file of its own that a later call finds finished."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Result = dict[str, Any]


class Stages:
    """The results of stages, in a folder.

    A stage that is finished, from the same inputs, is not run again; from others, it is done anew.
    Nothing is written of one that is interrupted or fails.

    Args:
        folder: Of the results, made if needed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = Stages(Path(folder)).run("sum", {"of": 2}, lambda: {"is": 4})
        ...     again = Stages(Path(folder)).run("sum", {"of": 2}, lambda: {"is": 5})
        sum ...
        sum: finished before, kept
        >>> again["is"]
        4
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, inputs: Mapping[str, Any], work: Callable[[], Result]) -> Result:
        """The result of a stage, worked out if there is none of these inputs yet.

        Args:
            name: Of the stage, and of its file.
            inputs: What the result depends on; plain numbers, strings, lists and mappings.
            work: What finds the result, as plain as the inputs; ``seconds`` are added.

        Raises:
            ValueError: If the file of an earlier result is damaged.
        """
        path = self.folder / f"{name}.json"
        given = json.loads(json.dumps(inputs))
        if path.exists():
            try:
                found = json.loads(path.read_text())
                kept, result = found["inputs"], found["result"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete it.") from error
            if kept == given:
                print(f"{name}: finished before, kept", flush=True)
                return result
            other = [key for key, value in given.items() if kept.get(key) != value]
            print(f"{name}: found with other {', '.join(other) or 'inputs'}, done anew", flush=True)
        else:
            print(f"{name} ...", flush=True)
        began = time.perf_counter()
        result = finite(work())
        result.setdefault("seconds", round(time.perf_counter() - began, 1))
        write_text(path, json.dumps({"inputs": given, "result": result}, indent=1) + "\n")
        return result


def write_text(path: Path, text: str) -> None:
    """A file appears under its name when it is complete."""
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def finite(value: Any) -> Any:
    """The same for JSON, which has no NaN: None in its place."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
