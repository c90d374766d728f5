"""Modules that torch.save has pickled whole, read without importing or calling what they name.

Unpickling calls whatever a file says. Here each class and function of a foreign package becomes an
inert stand-in that only keeps what the file holds, tensors are built by this module, and any other
name is refused.
"""

import io
import os
import pickle
import tarfile
import types
import warnings
import zipfile
from collections import OrderedDict
from typing import IO, Any

import torch
from torch import Tensor

# What such files name. All of it becomes stand-ins, which do nothing.
_ROOTS = (
    "schnetpack",
    "torch.nn",
    "torchmetrics",
    "lightning",
    "lightning_fabric",
    "pytorch_lightning",
    "omegaconf",
    "numpy",
    "typing",
    "_codecs",
)
_BUILTINS = {"set": set, "frozenset": frozenset}


class Stub:
    """A stand-in for an object of a class that is not imported.

    Parameters, buffers and child modules are attributes, as those of a module are.
    """

    def __new__(cls, *_: Any, **__: Any) -> "Stub":
        """An empty one, whatever the arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forget what a dictionary of another class would hold."""

    def append(self, value: Any) -> None:
        """Forget what a list of another class would hold."""

    def extend(self, values: Any) -> None:
        """As :meth:`append`."""

    def __getattr__(self, name: str) -> Any:
        for store in ("_parameters", "_buffers", "_modules"):
            found = self.__dict__.get(store)
            if isinstance(found, dict) and name in found:
                return found[name]
        raise AttributeError(name)

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Tensors by their names with dots, as those of a module."""
        state: dict[str, Tensor] = {}
        for store in ("_parameters", "_buffers"):
            for name, value in self.__dict__.get(store, {}).items():
                if isinstance(value, Tensor):
                    state[prefix + name] = value.detach()
        for name, child in self.__dict__.get("_modules", {}).items():
            if isinstance(child, Stub):
                state |= child.state_dict(f"{prefix}{name}.")
        return state


class _Unpickler(pickle.Unpickler):
    """Knows tensors and containers; makes stubs of the rest."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return _BUILTINS[name]
        if module == "torch._utils" and name in _REBUILD:
            return _REBUILD[name]
        if module == "torch" and (
            name in ("Size", "device") or isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return getattr(torch, name)
        if any(module == root or module.startswith(root + ".") for root in _ROOTS):
            # Its module is this one, so that nobody looks for the source of the original.
            return type(name, (Stub,), {"__module__": __name__, "origin": f"{module}.{name}"})
        raise ValueError(
            f"it names {module}.{name}, which files of SchNetPack do not, and is refused"
        )


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    made: Tensor = torch._utils._rebuild_tensor_v2(
        storage, offset, size, stride, False, OrderedDict()
    )
    return made


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_REBUILD = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
}


def _load(file: IO[bytes], **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def _reader() -> types.ModuleType:
    """What torch.load takes in place of the module pickle."""
    module = types.ModuleType("restricted_pickle")
    module.Unpickler = _Unpickler  # type: ignore[attr-defined]
    module.load = _load  # type: ignore[attr-defined]
    return module


def read_module(file: str | os.PathLike[str] | bytes) -> Any:
    """What ``torch.save`` wrote: a dictionary of tensors as it is, a module as a :class:`Stub`.

    No code of the file is run, and no package that it names is imported.

    Args:
        file: A path, or the bytes of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of ``torch.save``, or names what files of SchNetPack do not.
    """
    data = file if isinstance(file, bytes) else _bytes(file)
    name = "the file" if isinstance(file, bytes) else str(file)
    if data[:2] == b"PK":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [entry.rsplit("/", 1)[-1] for entry in archive.namelist()]
        except zipfile.BadZipFile as error:
            raise ValueError(f"{name} cannot be read as a file of torch.save ({error}).") from error
        if "constants.pkl" in members:
            raise ValueError(
                f"{name} is a TorchScript archive, that is a program; give the model's state_dict."
            )
    elif tarfile.is_tarfile(io.BytesIO(data)):
        raise ValueError(f"{name} is a tar archive, a format of torch before 0.2, and is not read.")
    try:
        with warnings.catch_warnings():
            # Of stubs there is no source to compare with that in old files.
            warnings.simplefilter("ignore")
            return torch.load(
                io.BytesIO(data), map_location="cpu", pickle_module=_reader(), weights_only=False
            )
    except Exception as error:  # a file cut short or made up fails in many ways
        raise ValueError(f"{name} cannot be read as a file of torch.save: {error}.") from error


def _bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no model at {path}.") from error


__all__ = ["Stub", "read_module"]
