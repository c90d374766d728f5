"""What is done to the words of a command line before it is parsed."""

import json
import re
from pathlib import Path

from pyg_schnet.cli.tasks import TRAIN


def with_underscores(arguments: list[str]) -> list[str]:
    """Let --train-size mean --train_size: options are fields of a dataclass."""
    return [
        re.sub(r"^--[^=]+", lambda m: "--" + m[0][2:].replace("-", "_"), argument)
        for argument in arguments
    ]


def with_paths_joined(arguments: list[str]) -> list[str]:
    """Let --paths take all words up to the next option, as a shell's patterns give them."""
    if "--paths" not in arguments:
        return arguments
    first = arguments.index("--paths") + 1
    last = next((i for i in range(first, len(arguments)) if arguments[i][:2] == "--"), None)
    words = arguments[first:last]
    if len(words) == 1 and words[0].startswith("["):
        return arguments
    rest = [] if last is None else arguments[last:]
    return [*arguments[: first - 1], f"--paths={json.dumps(words)}", *rest]


def with_resumed_config(arguments: list[str]) -> list[str]:
    """Put the configuration of a resumed run before the options that change it."""
    named = next((place for place, a in enumerate(arguments) if a in TRAIN), None)
    for i, argument in enumerate(arguments):
        folder = None
        if argument == "--resume" and i + 1 < len(arguments):
            folder = arguments[i + 1]
        elif argument.startswith("--resume="):
            folder = argument.removeprefix("--resume=")
        if folder is not None and (Path(folder) / "config.yaml").is_file() and named is not None:
            at = named + 1
            return [*arguments[:at], f"--config={folder}/config.yaml", *arguments[at:]]
    return arguments
