"""Other people's weight files: what is read of them, and nothing they could have executed.

A PyTorch file is loaded with `weights_only`, NumPy scalars beside the weights allowed and nothing else of
NumPy; a `.safetensors` file holds no code to begin with. What comes out is plain: tensors and numbers by key.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pctool.core.checkpoint import sum_path, unpickled
from pctool.errors import InputError

GIVE_ANOTHER = "give a checkpoint, a plain state dict (.pt, .pth) or a .safetensors file"
SAFETENSORS_HEADER = 8  # bytes: the length of the JSON that follows
NUMBERS = {"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}  # NumPy's names
MOST_NESTED = 8  # mappings within mappings; {"state_dict": {"model": {...}}} is 2


def load(path: Path) -> Any:
    """The content of a foreign file: of a PyTorch file what was saved, of a safetensors file its tensors by name.

    The numbers of a safetensors file's metadata stand beside its tensors. Tensors are on the CPU.
    Raises InputError where the file cannot be read, differs from a `.sha256` beside it, holds anything but
    tensors, plain values and NumPy scalars, or claims more than it holds.
    """
    try:
        data = path.read_bytes()
    except (OSError, MemoryError) as error:
        why = error.strerror if isinstance(error, OSError) else "not enough memory"
        raise InputError(f"cannot read {path}: {why}; {GIVE_ANOTHER}") from None
    recorded = sum_path(path)
    if recorded.is_file() and not recorded.read_bytes()[:64].lower() == hashlib.sha256(data).hexdigest().encode():
        raise InputError(f"{path} differs from its SHA-256 in {recorded.name}: it is damaged; use a good copy")
    return _safetensors(data, path) if path.suffix == ".safetensors" else _pickled(data, path)


def _safetensors(data: bytes, path: Path) -> dict[str, Any]:
    import safetensors.torch

    try:
        tensors: dict[str, Any] = safetensors.torch.load(data)
        length = int.from_bytes(data[:SAFETENSORS_HEADER], "little")
        metadata = json.loads(data[SAFETENSORS_HEADER : SAFETENSORS_HEADER + length]).get("__metadata__") or {}
    except Exception as error:  # its own class, and whatever torch says of the dtypes in a foreign header
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"{path} is damaged or no safetensors file ({reason}); {GIVE_ANOTHER}") from None
    numbers = {key: int(text) for key, text in metadata.items() if text.isdecimal() and len(text) < 19}
    places = {f"{name}.weight": i for i, name in enumerate(_named_layers(metadata))}
    ordered = sorted(tensors, key=lambda key: (places.get(key, len(places)), _in_counting_order(key)))
    return {**numbers, **{key: tensors[key] for key in ordered}}


def _named_layers(metadata: dict[str, str]) -> list[str]:
    """The layers in the network's order, as `pctool export` writes them; none in anybody else's file."""
    try:
        names = json.loads(metadata.get("layers", "[]"))
    except (ValueError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _in_counting_order(key: str) -> list[tuple[int, str]]:
    """conv2 before conv10: such a file does not keep the network's own order."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", key)]


def _pickled(data: bytes, path: Path) -> Any:
    _check_archive(data, path)
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return unpickled(data)
    except Exception as error:  # torch raises whatever its unpickler meets in a foreign or damaged file
        if beside := re.search(r"Unsupported (?:global|class)[^:]*: GLOBAL (\S+)", str(error)):
            reason = f"{path} holds more than weights ({beside[1]})"
            raise InputError(f"{reason}; save model.state_dict() alone, or {GIVE_ANOTHER}") from None
        raise InputError(f"{path} is damaged or no weights file (it cannot be unpickled); {GIVE_ANOTHER}") from None


def _check_archive(data: bytes, path: Path) -> None:
    """A ZIP whose entries add up to more than itself would unpack to any size; PyTorch's own store, never pack."""
    if not data.startswith(b"PK"):
        return  # PyTorch's older form, no archive
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise InputError(f"{path} is damaged or no weights file (a broken archive); {GIVE_ANOTHER}") from None
    if claimed > len(data):
        raise InputError(f"{path} claims {claimed:,} bytes in a file of {len(data):,}; {GIVE_ANOTHER}")


class _Dtype:
    """Stands for `numpy.dtype` while unpickling, so that a file cannot change NumPy's own."""

    def __init__(self, name: object, align: object = False, copy: object = True) -> None:
        if not isinstance(name, str) or name not in NUMBERS:
            raise ValueError(f"a NumPy scalar of type {name!r}")
        self.name = name
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _scalar(dtype: _Dtype, data: object) -> Any:
    """Stands for NumPy's function of that name: a number from its bytes."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise ValueError("a NumPy scalar that is no number")
    (number,) = np.frombuffer(data, np.dtype(dtype.order + dtype.name))
    return number


_NUMPY_SCALARS: list[Any] = [
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),  # files written with NumPy 1
]


def mappings(content: object) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping in a file's content with the keys that lead to it, outermost first."""
    waiting: deque[tuple[tuple[str, ...], object]] = deque([((), content)])
    seen: set[int] = set()  # a mapping may hold itself
    while waiting:
        path, found = waiting.popleft()
        if isinstance(found, Mapping) and len(path) <= MOST_NESTED and id(found) not in seen:
            seen.add(id(found))
            named = {key: value for key, value in found.items() if isinstance(key, str)}
            yield path, named
            waiting += [((*path, key), value) for key, value in named.items()]


def check_tensor(tensor: torch.Tensor, name: str) -> None:
    """Refuses a tensor that is not plain memory, or larger than the memory behind it (a view repeats entries).

    `torch.load` gives both without a complaint: 1.6 kB can claim 2^40 elements.
    """
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise InputError(f"{name} is no plain tensor but {tensor.layout} on {tensor.device}; {GIVE_ANOTHER}")
    claimed = tensor.numel() * tensor.element_size()
    if claimed > tensor.untyped_storage().nbytes():
        raise InputError(f"{name} claims {claimed:,} bytes and holds fewer; {GIVE_ANOTHER}")
