"""Files that are either whole or absent: atomic writes, and training states as safetensors + JSON, without pickle.

A state is a nested dict / list / tuple whose leaves are numpy arrays and scalars, torch tensors, and None, bool, int, float, str.
`save_state` puts the arrays into `arrays.safetensors` and everything else into `state.json`, where what JSON cannot say is an object
with one `$` key (`{"$tuple": [...]}`, `{"$torch": name}`, ...). Both are checksummed, so that damage is an error and not a wrong number.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

ARRAYS_FILE = "arrays.safetensors"
STATE_FILE = "state.json"
FORMAT = 1
TEMPORARY = ".tmp"  # how the names of unfinished files and folders end; they also begin with a dot

_LONG_INT_BITS = 4096  # Python refuses to read decimal integers of more than 4300 digits
_DTYPES = frozenset(("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "complex64"))


def write_text(path: Path | str, text: str) -> None:
    """Write the text in UTF-8 so that `path` holds either all of it or what it held before, even after a crash."""
    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_json(path: Path | str, value: Any) -> None:
    """Write strict, indented JSON atomically; inf and nan raise `ValueError`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def replaced(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write one file to; it becomes `path` on success and is removed on failure."""
    path = Path(path)
    temporary = _sibling(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


@contextlib.contextmanager
def new_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path` to fill; it becomes `path` on success and is removed on any failure.

    Raises `FileExistsError` if `path` is there and not empty, unless `replace`: then the old folder is moved aside, swapped, and deleted
    only after the new one stands.
    """
    path = Path(path)
    _check_free(path, replace)  # before the work as well as after it
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        _check_free(path, replace)
        _swap_in(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


def save_state(folder: Path | str, state: Any) -> None:
    """Write a state into an existing folder; `load_state` gives it back bit for bit.

    Tensors come back on the CPU, without gradient and sharing no memory. Raises `TypeError` that names the place of a leaf it cannot hold.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors: dict[str, torch.Tensor] = {}
    encoded = _encode(state, "state", tensors)
    with replaced(folder / ARRAYS_FILE) as temporary:
        save_file(tensors, temporary)
    checksums = {ARRAYS_FILE: _file_checksum(folder / ARRAYS_FILE), "state": _value_checksum(encoded)}
    write_text(folder / STATE_FILE, json.dumps({"format": FORMAT, "crc32": checksums, "state": encoded}, allow_nan=False) + "\n")


def load_state(folder: Path | str) -> Any:
    """Read what `save_state` wrote; raises `FileNotFoundError` or `ValueError` that names the file which is missing or damaged.

    A file of another version is neither: it raises `RuntimeError`, so that nobody takes it for rubbish.
    """
    folder = Path(folder)
    for path in (folder / STATE_FILE, folder / ARRAYS_FILE):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, so {folder} is not a complete saved state; use another one.")
    record = _read_record(folder / STATE_FILE)
    tensors = _read_tensors(folder / ARRAYS_FILE, record["crc32"].get(ARRAYS_FILE))
    return _decode(record["state"], tensors)


def _sibling(path: Path) -> Path:
    """Return a fresh hidden name in the same folder, hence on the same file system, where a rename is atomic."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}"


def _sync(path: Path) -> None:
    """Ask the operating system to put a file or a folder's entries on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_free(path: Path, replace: bool) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(f"{path} is there and is not a folder; choose another path or remove it.")
    if not replace and path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"The folder {path} is there and not empty; choose another one, remove it, or pass replace=True.")


def _swap_in(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`, putting back what stood there if that fails."""
    if not path.exists() or not any(path.iterdir()):
        os.rename(temporary, path)  # POSIX lets a folder take the place of an empty one
        return
    old = _sibling(path)
    os.rename(path, old)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _encode(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return the JSON form of a value, moving its arrays into `tensors`; `place` is its name in errors."""
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        return value if value.bit_length() < _LONG_INT_BITS else {"$int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if type(value) is str:
        return _encode_text(value)
    if type(value) is list:
        return [_encode(item, f"{place}[{i}]", tensors) for i, item in enumerate(value)]
    if type(value) is tuple:
        return {"$tuple": [_encode(item, f"{place}[{i}]", tensors) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        return _encode_dict(value, place, tensors)
    return _encode_array(value, place, tensors)


def _encode_text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON would join two lone surrogates into one character
        return {"$str": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _encode_dict(value: dict[Any, Any], place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Keep a dict as an object where its keys allow, else as a list of pairs (torch optimisers number their parameters)."""
    items = [(_encode_key(key, place), _encode(item, f"{place}[{key!r}]", tensors)) for key, item in value.items()]
    if all(type(key) is str and not key.startswith("$") for key, _ in items):
        return dict(items)
    return {"$dict": [list(item) for item in items]}


def _encode_key(key: Any, place: str) -> Any:
    if key is not None and type(key) not in (bool, int, float, str, tuple):
        raise TypeError(f"The key {key!r} of {place} is a {_type_name(key)}; the keys of a state are None, bool, int, float, str or tuples of these.")
    if type(key) is tuple:
        return {"$tuple": [_encode_key(item, place) for item in key]}
    return _encode(key, place, {})


def _encode_array(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    import torch

    # The number makes the name unique and the place makes the file readable to others.
    name = f"{len(tensors):05d} {place}".encode("ascii", "replace").decode()
    if isinstance(value, torch.Tensor):
        kind, tensor, dtype = "$torch", value.detach(), str(value.dtype).removeprefix("torch.")
        known = dtype in _DTYPES | {"bfloat16"} and value.layout is torch.strided and not value.is_quantized and not value.is_meta
    elif isinstance(value, np.ndarray | np.generic):
        kind, dtype = "$numpy" if isinstance(value, np.ndarray) else "$scalar", value.dtype.name
        known = dtype in _DTYPES and value.dtype.isnative and type(value) is not np.ma.MaskedArray
        tensor = torch.from_numpy(np.array(value, order="C")) if known else torch.empty(0)
    else:
        raise TypeError(
            f"{place} is a {_type_name(value)}; a state holds numpy arrays, torch tensors, None, bool, int, float, str, and dicts, lists and tuples of these."
        )
    if not known:
        raise TypeError(
            f"{place} is a {_type_name(value)} of dtype {value.dtype}; a state holds dense native arrays of {', '.join(sorted(_DTYPES))}, bfloat16 (torch)."
        )
    # A clone, because safetensors refuses tensors that share memory (tied weights) or are views.
    tensors[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
    return {kind: name}


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Undo `_encode`."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {key: _decode(item, tensors) for key, item in value.items()}
    return _decode_tagged(tag, value[tag], tensors)


def _decode_tagged(tag: str, content: Any, tensors: dict[str, torch.Tensor]) -> Any:
    match tag:
        case "$int":
            return int(content, 16)
        case "$float":
            return struct.unpack(">d", bytes.fromhex(content))[0]
        case "$str":
            return bytes.fromhex(content).decode("utf-8", "surrogatepass")
        case "$tuple":
            return tuple(_decode(item, tensors) for item in content)
        case "$dict":
            return {_decode(key, tensors): _decode(item, tensors) for key, item in content}
        case "$torch":
            return tensors[content]
        case "$numpy":
            return tensors[content].numpy()
        case "$scalar":
            return tensors[content].numpy()[()]
    raise RuntimeError(f"A saved state holds the unknown tag {tag!r}: it was written by a newer version; read it with that one.")


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); use another saved state.") from error
    if not isinstance(record, dict) or not isinstance(record.get("crc32"), dict) or "state" not in record:
        raise ValueError(f"{path} is damaged or no saved state; use another one.")
    if record.get("format") != FORMAT:
        raise RuntimeError(f"{path} has format {record.get('format')!r}, this version reads format {FORMAT}; read it with the version that wrote it.")
    if record["crc32"].get("state") != _value_checksum(record["state"]):
        raise ValueError(f"{path} is damaged (its checksum differs); use another saved state.")
    return record


def _read_tensors(path: Path, checksum: int | None) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if _file_checksum(path) != checksum:
        raise ValueError(f"{path} is damaged, or not of the same save as its {STATE_FILE} (its checksum differs); use another saved state.")
    try:
        # Clones, because loaded tensors are views of one mapped file.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); use another saved state.") from error


def _value_checksum(value: Any) -> int:
    return zlib.crc32(json.dumps(value, allow_nan=False).encode())


def _file_checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
