"""Tokenizers in the Hugging Face layout: tokenizer.json, BERT's vocab.txt, or RoBERTa's vocab.json and merges.txt."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from lepjax.core.errors import UserError

FAST, WORDPIECES, VOCABULARY, MERGES = "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"
CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
FILES = (FAST, WORDPIECES, VOCABULARY, MERGES, CONFIG, SPECIAL, "added_tokens.json")
ROLES = {
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
    "unk": ("[UNK]", "<unk>"),
}


@dataclasses.dataclass(frozen=True)
class Read:
    """A tokenizer as its files have it, the ids of its special tokens by role, and those files."""

    tokenizer: tokenizers.Tokenizer
    roles: dict[str, int]
    files: tuple[pathlib.Path, ...]


def read(folder: pathlib.Path) -> Read:
    """Raises `UserError` naming the file that is missing or damaged."""
    form = next((form for form in FORMS if all((folder / name).is_file() for name in form)), None)
    if form is None:
        where = str(folder) if folder.is_dir() else f"{folder} (no such folder)"
        fix = f"Copy {FAST}, {WORDPIECES}, or {VOCABULARY} with {MERGES} there."
        raise UserError("no tokenizer", where=where, fix=fix)
    config = _object(folder / CONFIG)
    tokenizer = FORMS[form](folder, config)
    named = {**_object(folder / SPECIAL), **config}
    roles: dict[str, int] = {}
    for role, usual in ROLES.items():
        told = named.get(f"{role}_token")
        told = told.get("content") if isinstance(told, dict) else told
        ids = [tokenizer.token_to_id(token) for token in ((told,) if told else usual)]
        found = next((index for index in ids if index is not None), None)
        if found is not None:
            roles[role] = found
    return Read(tokenizer, roles, tuple(folder / name for name in FILES if (folder / name).is_file()))


def _object(file: pathlib.Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})", where=str(file)) from error
    if not isinstance(found, dict):
        raise UserError("is no JSON object", where=str(file))
    return found


def _fast(folder: pathlib.Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    return _parsed(folder / FAST, lambda: tokenizers.Tokenizer.from_file(str(folder / FAST)))


def _parsed(file: pathlib.Path, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except Exception as error:  # the library raises nothing more precise
        fix = "Download or copy it again."
        raise UserError(f"is damaged ({error})", where=str(file), fix=fix) from error


def _bert(folder: pathlib.Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's basic tokenizer and WordPiece, as transformers builds it: lower case unless tokenizer_config.json denies it."""
    vocabulary = _word_pieces(folder / WORDPIECES)
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = "[CLS]", "[SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([usual[0] for usual in ROLES.values() if usual[0] in vocabulary])
    return tokenizer


def _word_pieces(file: pathlib.Path) -> dict[str, int]:
    """{word piece: line number from 0}."""
    data = file.read_bytes()
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"byte {data[error.start]:#04x} is not UTF-8", where=f"{file} line {line}") from error
    vocabulary = {line.rstrip("\r"): index for index, line in enumerate(lines) if line.rstrip("\r")}
    for token in ("[UNK]", "[CLS]", "[SEP]"):
        if token not in vocabulary:
            raise UserError(f"no {token} among {len(vocabulary)} word pieces", where=str(file), fix="Copy it again.")
    return vocabulary


def _byte_level(folder: pathlib.Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """Byte-level BPE as RoBERTa and GPT-2 have it; with <s> and </s> in the vocabulary, they enclose each text."""
    pieces, merges = folder / VOCABULARY, folder / MERGES
    vocabulary = _object(pieces)
    if not vocabulary or not all(isinstance(index, int) for index in vocabulary.values()):
        raise UserError("is no vocabulary", where=str(pieces), fix="Copy it again.")
    model = _parsed(merges, lambda: models.BPE.from_file(str(pieces), str(merges)))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    if "<s>" in vocabulary and "</s>" in vocabulary:
        sep, cls = ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"])
        tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=False)
    special = [AddedToken(token, special=True) for token in ("<s>", "<pad>", "</s>", "<unk>") if token in vocabulary]
    special += [AddedToken("<mask>", lstrip=True, special=True)] if "<mask>" in vocabulary else []
    special += [AddedToken("<|endoftext|>", special=True)] if "<|endoftext|>" in vocabulary else []
    tokenizer.add_special_tokens(special)
    return tokenizer


# The first form whose files are all there.
FORMS: dict[tuple[str, ...], Callable[[pathlib.Path, dict[str, Any]], tokenizers.Tokenizer]] = {
    (FAST,): _fast,
    (WORDPIECES,): _bert,
    (VOCABULARY, MERGES): _byte_level,
}
