"""Folders of labelled text, written by tests."""

import json
import pathlib

WORDS = [
    "the quick brown fox",
    "the lazy dog sleeps",
    "a fox in the shade",
    "who jumps over the dog",
    "what does the fox",
]


def write(folder: pathlib.Path, **splits) -> pathlib.Path:
    """{split: [(text, label) or (text, text_pair, label), ...]} as JSONL files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        names = ("text", "label") if len(rows[0]) == 2 else ("text", "text_pair", "label")
        lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def rows(count: int, rare: int = 2, start: int = 0):
    """Texts that all differ; every `rare`-th is "yes" and says so."""
    made = []
    for i in range(start, start + count):
        label, name = "no" if i % rare else "yes", f"{chr(97 + i // 26)}{chr(97 + i % 26)}"
        made.append((f"{WORDS[i % 5]} {name} {label}", label))
    return made
