"""Where pretrained things come from: a local folder, or a repository of the Hugging Face hub at one revision."""

from __future__ import annotations

import os
import pathlib
import re

from lepjax.core.errors import UserError

COMMIT = re.compile("[0-9a-f]{40}")
WANTED = ("*.json", "*.txt", "*.safetensors")  # nothing that would have to be unpickled


def folder(name: str, patterns: tuple[str, ...] = WANTED) -> pathlib.Path:
    """The local folder of `name`: a path (environment variables are expanded), or `owner/repository[@revision]` of the hub.

    A hub repository is downloaded once and cached; without `@revision` the newest one is taken, and the folder's name
    tells its commit. Raises `UserError` where there is neither folder nor repository.
    """
    path = pathlib.Path(os.path.expandvars(name)).expanduser()
    if path.is_dir():
        return path
    repository, _, revision = name.partition("@")
    parts = repository.split("/")
    if not name or name.startswith((".", "/", "~", "$")) or len(parts) > 2 or not all(parts):
        raise UserError("no such folder", where=str(path) if name else "pretrained", fix="Name a folder or a hub name.")
    return _download(repository, revision or None, patterns)


def commit(folder: pathlib.Path) -> str | None:
    """The commit of the hub's repository that a folder holds, where it tells: a snapshot in the cache, or a download."""
    if folder.parent.name == "snapshots":
        return folder.name
    notes = sorted((folder / ".cache" / "huggingface" / "download").glob("*.metadata"))
    told = {note.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip() for note in notes}
    return told.pop() if len(told) == 1 and all(map(COMMIT.fullmatch, told)) else None


def located(name: str) -> pathlib.Path | None:
    """Where `folder(name)` has put it, without a network; None where it is not here."""
    import huggingface_hub
    from huggingface_hub import errors

    path = pathlib.Path(os.path.expandvars(name)).expanduser()
    if path.is_dir():
        return path
    repository, _, revision = name.partition("@")
    try:
        found = huggingface_hub.snapshot_download(repository, revision=revision or None, local_files_only=True)
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError):
        return None
    return pathlib.Path(found)


def _download(repository: str, revision: str | None, patterns: tuple[str, ...]) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    where = f"{repository}@{revision}" if revision else repository
    elsewhere = "Pass a local folder with config.json, model.safetensors and tokenizer.json instead"
    try:
        found = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns))
    except errors.RevisionNotFoundError as error:
        raise UserError(
            "the hub has no such revision", where=where, fix="Use a branch, tag or commit of it."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        fix = f"Check the name. {elsewhere}."
        raise UserError("neither a folder nor a repository of the hub", where=where, fix=fix) from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:
        fix = f"{elsewhere}, or try again with a network."
        raise UserError(
            "is no local folder, not in the cache, and the hub cannot be reached", where=where, fix=fix
        ) from error
    return pathlib.Path(found)
