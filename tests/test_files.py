"""Atomic files, and states that come back bit for bit."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents.files import load_state, new_folder, replaced, save_state, write_json, write_text


def same(a: Any, b: Any) -> bool:
    """Equality of type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(v, w) for v, w in zip(a, b, strict=True))
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, np.ndarray | np.generic):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, torch.Tensor):
        same_kind = a.dtype == b.dtype and a.shape == b.shape
        return same_kind and (a.numel() == 0 or torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)))
    return bool(a == b)


def round_trip(state: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        save_state(folder, state)
        return load_state(folder)


dtypes = st.sampled_from(["bool", "int8", "uint8", "int16", "int64", "uint64", "float16", "float32", "float64"]).map(np.dtype)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
tensors = st.one_of(arrays.map(torch.from_numpy), arrays.map(lambda a: torch.from_numpy(a.astype(np.float32)).to(torch.bfloat16)))
texts = st.text(st.characters(exclude_categories=[]), max_size=6)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True, allow_infinity=True), texts)
keys = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts, texts.map("$".__add__), st.tuples(st.integers(), texts))
states = st.recursive(
    st.one_of(scalars, arrays, arrays.map(lambda a: a.flat[0] if a.size else a), tensors),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.lists(inner, max_size=3).map(tuple), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None, max_examples=120)
@given(states)
@pytest.mark.filterwarnings("ignore:overflow")
def test_any_state_comes_back_bit_for_bit(state: Any) -> None:
    assert same(round_trip(state), state)


@pytest.mark.parametrize(
    "state",
    [
        {"a/b": np.array(1), "a": {"b": np.array(2)}, "__metadata__": np.zeros(2)},  # names that could collide in the file
        {1: {"step": torch.tensor(3.0)}, "1": 2, False: 0},
        [2**127 + 1, -(2**70), 10**5000, math.inf, -math.inf, math.nan, -0.0, 5e-324, 0.1],
        struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0],  # a nan with a sign and a payload
        {"$tuple": [1], "x": {"$torch": "no tensor"}},
        "\ud83d\ude00 as two lone surrogates",
        [np.float64(0.1), np.bool_(True), np.uint64(2**64 - 1), torch.tensor(2**63, dtype=torch.uint64)],
        np.zeros((0, 3), np.uint64),
        (),
    ],
)
def test_hard_cases(state: Any) -> None:
    assert same(round_trip(state), state)


def test_views_transposed_and_tied_tensors_are_saved_by_value() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    state = round_trip({"a": weight, "b": weight, "c": weight[1:], "d": weight.T, "e": np.arange(6).reshape(2, 3).T[::-1]})
    assert torch.equal(state["a"], weight.detach())
    assert state["a"].data_ptr() != state["b"].data_ptr()
    assert torch.equal(state["c"], weight[1:].detach())
    assert torch.equal(state["d"], weight.T.detach())
    np.testing.assert_array_equal(state["e"], np.arange(6).reshape(2, 3).T[::-1])
    state["e"][0, 0] = 7  # what comes back is writable


def test_an_optimiser_and_a_generator_come_back() -> None:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    generator = torch.Generator().manual_seed(1)
    state = {"optimiser": optimiser.state_dict(), "torch": generator.get_state(), "numpy": np.random.default_rng(1).bit_generator.state}
    assert same(round_trip(state), state)
    assert same(round_trip(OrderedDict(a=1)), {"a": 1})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [object()]}, r"state\['a'\]\[0\] is a object; a state holds"),
        ({"a": np.zeros(2, complex)}, r"state\['a'\] is a numpy.ndarray of dtype complex128"),
        (np.array(["x"]), "dtype <U1"),
        (np.array([None]), "dtype object"),
        (np.zeros(2, ">f8"), "dtype >f8"),
        (torch.zeros(2).to_sparse(), "dense native"),
        (torch.zeros(2, device="meta"), "dense native"),
        ({frozenset(): 1}, r"The key frozenset\(\) of state"),
        ({(1, (object(),)): 1}, "The key <object"),
        (Path("x"), "is a pathlib"),
    ],
)
def test_what_a_state_cannot_hold_is_named(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        save_state(tmp_path, state)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    save_state(tmp_path, {"a": np.arange(100), "b": 0.125})
    good = (tmp_path / name).read_bytes()
    flips = [0, len(good) // 2, len(good) - 5]
    for bad in [b"", good[:-3], *(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in flips)]:
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(ValueError, match=name):
            load_state(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_state(tmp_path)


def test_a_file_of_another_kind_or_version_says_so(tmp_path: Path) -> None:
    save_state(tmp_path, {})
    record = json.loads((tmp_path / "state.json").read_text())
    empties: list[Any] = [[], {}]
    for changed in empties:
        write_json(tmp_path / "state.json", changed)
        with pytest.raises(ValueError, match="no saved state"):
            load_state(tmp_path)
    write_json(tmp_path / "state.json", record | {"format": 99})
    with pytest.raises(RuntimeError, match="has format 99"):
        load_state(tmp_path)


def test_arrays_of_another_save_are_refused(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        save_state(tmp_path / name, np.array(value))
    os.replace(tmp_path / "a/arrays.safetensors", tmp_path / "b/arrays.safetensors")
    with pytest.raises(ValueError, match="not of the same save"):
        load_state(tmp_path / "b")


def test_text_and_json_are_whole_or_absent(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "line\r\nümläut\n")
    assert (tmp_path / "a.txt").read_bytes() == "line\r\nümläut\n".encode()
    write_json(tmp_path / "a.json", {"x": [1, 0.1]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 0.1]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", math.nan)

    def fail_half_way() -> None:
        with replaced(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert (tmp_path / "a.txt").read_text() == "line\nümläut\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"]


def fill(path: Path, text: str, *, replace: bool = False, error: BaseException | None = None) -> None:
    with new_folder(path, replace=replace) as folder:
        (folder / "inner").mkdir()
        (folder / "inner/file").write_text(text)
        if error is not None:
            raise error


def test_a_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep/er"
    with pytest.raises(KeyboardInterrupt):
        fill(path, "x", error=KeyboardInterrupt())
    assert not list(path.parent.iterdir())
    fill(path, "one")
    assert (path / "inner/file").read_text() == "one"
    with pytest.raises(FileExistsError, match="not empty; choose another one"):
        fill(path, "two")
    with pytest.raises(OSError, match="no"):
        fill(path, "two", replace=True, error=OSError("no"))
    assert (path / "inner/file").read_text() == "one"
    fill(path, "two", replace=True)
    assert (path / "inner/file").read_text() == "two"
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", "three")
    assert [p.name for p in path.parent.iterdir()] == ["er"]
    with pytest.raises(FileExistsError, match="not a folder"):
        fill(path / "inner/file", "four", replace=True)


def test_the_old_folder_is_put_back_when_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a", "one")
    rename, calls = os.rename, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("no space")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="no space"):
        fill(tmp_path / "a", "two", replace=True)
    assert (tmp_path / "a/inner/file").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_importing_is_light() -> None:
    code = (
        "import sys, agents.run, agents.files; print([m for m in ('torch', 'rich', 'matplotlib', 'safetensors', 'tensorboard', 'textgym') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert result.stdout.strip() == "[]"
