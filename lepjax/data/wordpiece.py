"""A WordPiece vocabulary of one's own text, the same in every process."""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile
from collections.abc import Sequence

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from lepjax.core import hub
from lepjax.core.errors import UserError
from lepjax.data.tokenizer import Tokenizer
from lepjax.data.tokenizer_files import WORDPIECES

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train(texts: Sequence[str], size: int) -> tuple[str, ...]:
    """Up to `size` lower-case word pieces in the order of their ids, special tokens first. Every character has its own.

    The library numbers the characters inside words in the order of a hash table, which differs between processes, and
    breaks ties between merges by those numbers. So they are numbered here: given as special tokens they come first.
    """
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = (word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    inside = sorted({character for word in set(words) for character in word[1:]})
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    first = [*SPECIAL, *(f"##{character}" for character in inside)]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    )
    ids = tokenizer.get_vocab()
    return tuple(sorted(ids, key=ids.__getitem__))


def stored(pieces: Sequence[str]) -> pathlib.Path:
    """A folder of the user's cache that holds these pieces as vocab.txt. Its name is their digest, so it never changes."""
    text = "".join(f"{piece}\n" for piece in pieces)
    base = os.environ.get("XDG_CACHE_HOME")
    cache = (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "lepjax" / "vocabularies"
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not (folder / WORDPIECES).is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8", newline="") as file:
                file.write(text)
            pathlib.Path(file.name).replace(folder / WORDPIECES)  # another process may be writing the same
        except OSError as error:
            fix = "Set XDG_CACHE_HOME to a folder that can."
            raise UserError(f"cannot be written ({error.strerror})", where=str(folder), fix=fix) from error
    return folder


def given_or_trained(name: str, texts: Sequence[str], size: int) -> tuple[Tokenizer, pathlib.Path]:
    """The tokenizer of a folder or of the hub, or where there is no `name` one trained on `texts`; and its folder."""
    if name:
        folder = hub.folder(name)
    else:
        if size <= len(SPECIAL):
            raise UserError(f"{size} word pieces", where="data.vocabulary", fix=f"Use more than {len(SPECIAL)}.")
        folder = stored(train(texts, size))
    return Tokenizer.load(folder), folder
