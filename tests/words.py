"""Tokenizer folders small enough to read: BERT's word pieces, and RoBERTa's bytes."""

from __future__ import annotations

import json
import pathlib

import tokenizers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "sleeps", "in", "shade", "where", "who"]
WORDS += ["what", "does"]


def word_pieces(folder: pathlib.Path) -> str:
    """WORDS are tokens, other lower-case words are spelled. 76 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*SPECIAL, *".,?", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return str(folder)


def bytes_of_roberta(folder: pathlib.Path) -> str:
    """Byte-level BPE of WORDS, with <s> <pad> </s> <unk> <mask> as 0 to 4. Some 330 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([" ".join(WORDS)] * 2, vocab_size=400, special_tokens=special, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return str(folder)
