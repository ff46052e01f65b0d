"""Where data sets come from: files on this machine, the Hugging Face hub, TensorFlow Datasets (without TensorFlow)."""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

from lepjax.core.errors import UserError, nearest
from lepjax.data import conll, tables
from lepjax.data.contents import contents
from lepjax.data.known import KNOWN, Known
from lepjax.data.quarantine import Sieve
from lepjax.data.tables import Origin, Table

SPLITS = ("train", "validation", "validation_mismatched", "test", "test_mismatched")
SAME = {
    **dict.fromkeys(("valid", "val", "dev", "dev_matched", "validation_matched"), "validation"),
    **dict.fromkeys(("dev_mismatched",), "validation_mismatched"),
    "test_matched": "test",
}
SUFFIXES = (*tables.READERS, ".parquet", *conll.SUFFIXES)
SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-(?P<count>\d{5})(-[0-9a-f]+)?")
VERSION = re.compile(r"(?P<split>.+)-v\d[\d.]*")  # train-v1.1.json
FOLDER_FORM = "Download its files and pass their folder: data_dir=FOLDER (--data-dir FOLDER), or set LEPJAX_DATA."


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked for. `folder`: data_dir; `revision`: of the hub, instead of the known one."""

    known: Known
    folder: str = ""
    revision: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """One split: a sentence that says where it comes from, and how to read it; bad records go to the sieve."""

    said: str
    read: Callable[[Sieve], Table]


Parts = dict[str, Part]


class Unavailable(UserError):
    """A source that cannot be reached, or does not have the data set: another may."""


def canonical(split: str) -> str:
    """One name for what is called validation, valid, val or dev."""
    return SAME.get(split, split)


# ---- files on this machine ----


def local(wanted: Wanted) -> Parts:
    """`data_dir`, or the path that the name is, or $LEPJAX_DATA."""
    known = wanted.known
    if wanted.folder:
        folder = _expanded(wanted.folder)
        if folder.is_file():
            return single(folder, known)
        found = files_of(folder, known) or files_in(folder)
        if not any(split in found for split in SPLITS):
            raise UserError(
                f"neither {known.name}/train.*, nor {known.name}_train.*, nor train.* ({', '.join(SUFFIXES)}, or .gz)"
                f"{': ' + ', '.join(sorted(found)[:10]) if found else ''}",
                where=str(folder) if folder.is_dir() else f"{folder} (no such folder)",
                fix="Name the files after the splits: train, validation or dev, test.",
            )
        return _parts(found, known)
    path = _expanded(known.name)
    if known.name not in KNOWN and path.exists():
        return local(dataclasses.replace(wanted, folder=str(path)))
    return environment(wanted)


def environment(wanted: Wanted) -> Parts:
    root = os.environ.get("LEPJAX_DATA", "")
    found = files_of(_expanded(root), wanted.known) if root else {}
    if not found:
        raise Unavailable(f"$LEPJAX_DATA ({root}) has none of it" if root else "LEPJAX_DATA is not set")
    return _parts(found, wanted.known)


def single(file: pathlib.Path, known: Known) -> Parts:
    """One file is the training split, unless its name says another."""
    split = canonical(_stem(file))
    return _parts({split if split in SPLITS else "train": [file]}, known)


def files_of(folder: pathlib.Path, known: Known) -> dict[str, list[pathlib.Path]]:
    """{split: files} of a folder that holds several data sets: cola_train.tsv, glue/cola_train.tsv or cola/train.tsv."""
    candidates = [(folder, f"{known.name}_"), (folder / known.name, "")]
    if known.family:
        candidates.insert(1, (folder / known.family, f"{known.name}_"))
    found = (files_in(place, prefix) for place, prefix in candidates)
    return next((files for files in found if files.keys() & set(SPLITS)), {})


def files_in(folder: pathlib.Path, prefix: str = "") -> dict[str, list[pathlib.Path]]:
    """{split: files} of the tables in a folder: <prefix>train.tsv, train-00000-of-00002.parquet or train/0000.parquet."""
    found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not prefix and canonical(path.name) in SPLITS:
            shards = [file for file in sorted(path.iterdir()) if tables.suffix_of(file) in SUFFIXES]
            found[canonical(path.name)] += shards
        elif path.is_file() and path.name.startswith(prefix) and tables.suffix_of(path) in SUFFIXES:
            found[canonical(_stem(path).removeprefix(prefix))].append(path)
    return {split: files for split, files in found.items() if files}


def _stem(file: pathlib.Path) -> str:
    name = file.name.removesuffix(".gz")
    stem = name.removesuffix(pathlib.Path(name).suffix)
    match = SHARD.fullmatch(stem) or VERSION.fullmatch(stem)
    return match["split"] if match else stem


def check_complete(split: str, files: list[pathlib.Path]) -> None:
    shards = [SHARD.fullmatch(file.name.removesuffix(".gz").rpartition(".")[0]) for file in files]
    counts = {match["count"] if match else "" for match in shards}
    in_own_folder = all(canonical(file.parent.name) == split for file in files)
    if len(files) > 1 and not in_own_folder and (len(counts) > 1 or "" in counts):
        names = ", ".join(file.name for file in files)
        raise UserError(f"several files for the split {split}: {names}", where=str(files[0].parent), fix="Keep one.")
    expected = next((int(match["count"]) for match in shards if match), len(files))
    if len(files) != expected:
        where = str(files[0].parent)
        raise UserError(f"{len(files)} of {expected} shards of the split {split}", where=where, fix="Copy the others.")


def _parts(found: dict[str, list[pathlib.Path]], known: Known, said: str = "") -> Parts:
    def told(files: list[pathlib.Path]) -> str:
        return said or f"local file{'s' * (len(files) > 1)} {', '.join(map(str, files))}"

    return {s: Part(told(files), functools.partial(read_files, s, files, known)) for s, files in found.items()}


def read_files(split: str, files: list[pathlib.Path], known: Known, sieve: Sieve) -> Table:
    check_complete(split, files)
    return tables.joined([_read_file(file, known, sieve) for file in files])


def _read_file(file: pathlib.Path, known: Known, sieve: Sieve) -> Table:
    suffix = tables.suffix_of(file)
    first = contents(file).text.partition("\n")[0] if suffix == ".tsv" and known.labels is None else ""
    tagged = suffix in conll.SUFFIXES or (suffix == ".tsv" and (known.tagged or conll.looks_tagged(first)))
    return conll.read(file, sieve) if tagged else tables.read(file, sieve)


def _expanded(path: str) -> pathlib.Path:
    return pathlib.Path(os.path.expandvars(path)).expanduser()


# ---- the hub ----


def hub(wanted: Wanted) -> Parts:
    """The Parquet files of a repository, downloaded once and cached (in `data_dir` where it is given)."""
    known = wanted.known
    if not known.hub:
        raise Unavailable("it has no entry on the hub")
    snapshot = _snapshot(known, wanted.revision or known.revision or None, wanted.folder or None)
    found = files_in(snapshot / known.config)
    if not found:
        raise UserError(
            "the hub's repository has no table there", where=f"{known.hub} {known.config} @ {snapshot.name}"
        )
    return _parts(found, known, f"hub {known.hub} {known.config} @ {snapshot.name}")


def _snapshot(known: Known, revision: str | None, cache: str | None) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    download = functools.partial(
        huggingface_hub.snapshot_download,
        known.hub,
        repo_type="dataset",
        revision=revision,
        cache_dir=cache,
        allow_patterns=[f"{known.config}/*"],
    )
    where = f"{known.hub}@{revision}" if revision else known.hub
    try:
        # Asked first because it fails at once without a network, where a download would try again for half a minute.
        huggingface_hub.HfApi().dataset_info(known.hub, revision=revision, timeout=10)
        return pathlib.Path(download())
    except errors.RevisionNotFoundError as error:
        fix = "Use a branch, tag or commit of it."
        raise UserError("the hub has no such revision", where=where, fix=fix) from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:
        unreachable = error
    try:
        return pathlib.Path(download(local_files_only=True))
    except (errors.LocalEntryNotFoundError, OSError) as error:
        reason = f"{where} is not in the hub's cache, and the hub cannot be reached ({type(unreachable).__name__})"
        raise Unavailable(reason) from error


# ---- TensorFlow Datasets ----


def tfds(wanted: Wanted, download: bool = True) -> Parts:
    """A builder of TFDS, prepared as ArrayRecord files, which need no TensorFlow (in `data_dir` where it is given)."""
    known = wanted.known
    if not known.tfds:
        raise Unavailable("TFDS does not have it")
    try:
        import tensorflow_datasets

        importlib.import_module("tensorflow_datasets.text")  # registers GLUE and CoNLL
        place = {"data_dir": wanted.folder} if wanted.folder else {}
        builder = tensorflow_datasets.builder(known.tfds, file_format="array_record", **place)
        if not builder.is_prepared():
            if not download:
                raise Unavailable("TFDS has not prepared it on this machine")
            config = tensorflow_datasets.download.DownloadConfig(try_download_gcs=False)  # that copy needs TensorFlow
            builder.download_and_prepare(download_config=config)
    except ImportError as error:
        needed = error.name or str(error)
        raise UserError(f"TFDS needs {needed}", where=known.tfds, fix=f"pip install {needed}") from error
    except OSError as error:
        raise Unavailable(f"TFDS cannot download {known.tfds} ({type(error).__name__})") from error
    except (ValueError, NotImplementedError) as error:
        fix = "Pass data_dir=FOLDER with another folder for TFDS to prepare it in."
        raise UserError(f"TFDS cannot read it ({error})", where=known.tfds, fix=fix) from error
    said = f"TFDS {builder.info.full_name}"
    return {canonical(split): Part(said, functools.partial(_records, builder, split)) for split in builder.info.splits}


def prepared_tfds(wanted: Wanted) -> Parts:
    return tfds(wanted, download=False)  # without a network a download tries again for minutes


def _records(builder: Any, split: str, sieve: Sieve) -> Table:
    where = f"TFDS {builder.info.full_name} {split} record"
    try:
        source = builder.as_data_source(split=split)
    except (ValueError, NotImplementedError) as error:
        fix = "Pass data_dir=FOLDER with another folder for TFDS to prepare it in."
        raise UserError(f"not prepared as ArrayRecord files ({error})", where=where, fix=fix) from error
    records = [_plain(source[index]) for index in range(len(source))]
    columns = {name: [record[name] for record in records] for name in builder.info.features}
    return Table(columns, Origin.single(where, range(1, len(records) + 1)))


def _plain(value: Any) -> Any:
    """Python's own types in place of bytes and numpy's."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


# ---- which of them ----


def auto(wanted: Wanted) -> Parts:
    """`data_dir` or path, else $LEPJAX_DATA, else the hub, else what TFDS has prepared."""
    if wanted.folder or wanted.known.name not in KNOWN:
        return local(wanted)
    reasons = []
    for source in (environment, hub, prepared_tfds):
        try:
            return source(wanted)
        except Unavailable as error:
            reasons.append(error.found)
    raise UserError("; ".join(reasons), where=wanted.known.name, fix=FOLDER_FORM)


SOURCES: dict[str, Callable[[Wanted], Parts]] = {"auto": auto, "local": local, "hub": hub, "tfds": tfds}


def fetch(wanted: Wanted, source: str) -> Parts:
    """The splits that the source has. Raises `UserError` where there is none."""
    if source not in SOURCES:
        raise UserError(f"no source {source!r}", where="source", fix=nearest(source, SOURCES))
    name = wanted.known.name
    if not name or (name not in KNOWN and not wanted.folder and not _expanded(name).exists()):
        fix = f"{nearest(name, KNOWN)} Or pass the path of a folder or file."
        raise UserError("neither a known data set nor a path", where=name or "dataset", fix=fix)
    try:
        return SOURCES[source](wanted)
    except Unavailable as error:
        raise UserError(error.found, where=name, fix=FOLDER_FORM) from error
