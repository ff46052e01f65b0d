"""Hugging Face folders: config.json, and tensors in model.safetensors or in the shards of its index."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes  # noqa: F401 - numpy knows bfloat16 by it
import numpy as np
import safetensors
from safetensors.numpy import save_file

from lepjax.core.errors import UserError
from lepjax.core.paths import safe_join

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """config.json. Raises `UserError` where it is missing or no JSON object."""
    return _read_json(folder / CONFIG)


def sizes(
    config: Mapping[str, Any], keys: Mapping[str, str], needed: Iterable[str], where: str, words: Iterable[str] = ()
) -> dict[str, Any]:
    """What config.json says of our fields, {field: value}; `keys` names their keys, `words` are the fields that hold text.

    Raises `UserError` where one of the `needed` is missing or a number is none.
    """
    values: dict[str, Any] = {}
    for ours, theirs in keys.items():
        value = config.get(theirs)
        if value is None and ours in needed:
            raise UserError(f"has no {theirs!r}", where=where)
        if value is not None and ours not in words and not isinstance(value, int | float):
            raise UserError(f"{theirs} {value!r} is no number", where=where)
        if value is not None:
            values[ours] = value
    return values


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), fix="Name a folder in the Hugging Face layout.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})", where=str(path)) from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if not isinstance(data, dict):
        raise UserError("is no JSON object", where=str(path))
    return data


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a folder, read one at a time. `files` tells which file holds which name."""

    files: dict[str, pathlib.Path]

    @staticmethod
    def of(folder: pathlib.Path) -> Tensors:
        """Raises `UserError` for a folder without safetensors, and for damaged or truncated files."""
        files: dict[str, pathlib.Path] = {}
        for path in _weight_files(folder):
            with _opened(path) as file:
                files |= dict.fromkeys(file.keys(), path)
        return Tensors(files)

    def read(self, name: str) -> np.ndarray:
        """The tensor, in float32 where it is stored in a floating dtype of any width."""
        with _opened(self.files[name]) as file:
            try:
                array = file.get_tensor(name)
            except (safetensors.SafetensorError, ValueError, TypeError, AttributeError) as error:  # also unknown dtypes
                raise UserError(f"tensor cannot be read ({error})", where=f"{self.files[name]} {name}") from error
        # bfloat16 is no numpy dtype of its own kind: what is not an integer or a truth value becomes float32.
        return array if array.dtype.kind in "iub" else array.astype(np.float32)


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    index = folder / INDEX
    if index.is_file():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise UserError("has no weight_map of tensors and files", where=str(index))
        shards = [safe_join(folder, shard, str(index)) for shard in _distinct(named.values())]
        for shard in shards:
            if not shard.is_file():
                raise UserError("a shard is missing", where=str(shard), fix=f"{index.name} names it.")
        return sorted(shards)
    path = folder / WEIGHTS
    if path.is_file():
        return [path]
    others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack"))
    found = f"no {WEIGHTS}" + (f", only {others[0]}, which would have to be unpickled" if others else "")
    raise UserError(found, where=str(folder), fix="Save the model as safetensors.")


def _distinct(names: Iterable[Any]) -> list[Any]:
    found: list[Any] = []  # whatever the JSON holds, such as lists, which have no hash
    for name in names:
        if name not in found:
            found.append(name)
    return found


def _opened(path: pathlib.Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"is damaged or cut short ({error})", where=str(path), fix="Download or copy it again."
        ) from error


def write(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    files: Iterable[pathlib.Path] = (),
) -> None:
    """Writes a folder that Hugging Face's libraries read: config.json, model.safetensors, and copies of `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    for file in files:
        target = folder / file.name
        if target.resolve() != file.resolve():
            target.write_bytes(file.read_bytes())
    partial = folder / f"{WEIGHTS}.partial"
    save_file(contiguous, partial, metadata={"format": "pt"})  # transformers asks for this entry
    partial.replace(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
