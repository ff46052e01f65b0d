"""Pretrained encoders that may fit the data: found in folders, judged by what their vocabulary makes of the texts."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from lepjax.core import parameters
from lepjax.core.errors import UserError
from lepjax.core.precision import policy
from lepjax.data import wordpiece
from lepjax.data.tokenizer import Tokenizer
from lepjax.models import pretrained
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture, architecture
from lepjax.models.bert_heads import SequenceClassification

DEPTH = 3
"""Folders below those given in which models are looked for."""
SAMPLE = 2000
"""Texts that a vocabulary is tried on."""
UNKNOWN = 0.02
"""Share of unknown tokens up to which a vocabulary fits."""
PIECES = 2.5
"""Tokens per word (per character, where Chinese characters are words) up to which a vocabulary fits."""
SCRATCH = BertArchitecture(vocab_size=8000, width=128, layers=2, heads=4, mlp_width=512)
"""What is trained from random weights, where nothing pretrained fits: small, because the data is all it learns from."""


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What a vocabulary makes of texts. `unknown`: share of its tokens; `pieces`: tokens per word."""

    unknown: float
    pieces: float

    @property
    def fits(self) -> bool:
        return self.unknown <= UNKNOWN and self.pieces <= PIECES

    def __str__(self) -> str:
        return f"{self.unknown:.1%} of its tokens are unknown, {self.pieces:.2f} tokens a word"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that can be fine-tuned on the data, and how long the training texts are in its tokens."""

    name: str
    model: Bert
    tokenizer: str
    """The folder of its tokenizer."""
    coverage: Coverage
    lengths: np.ndarray = dataclasses.field(repr=False, compare=False)
    """int64[records]: tokens of each training text or pair, uncut."""
    size: int
    """Parameters."""

    @property
    def scratch(self) -> bool:
        return not self.model.pretrained

    def percentile(self, share: float) -> int:
        """Tokens that `share` of the training texts do not exceed."""
        return int(np.ceil(np.quantile(self.lengths, share)))

    def __str__(self) -> str:
        spread = ", ".join(f"{share:.0%} {self.percentile(share)}" for share in (0.5, 0.9, 0.99, 1.0))
        return f"{self.size / 1e6:.1f} M parameters; {self.coverage}; tokens a text: {spread}"


@dataclasses.dataclass(frozen=True)
class Refused:
    """A folder that is no candidate, and why."""

    name: str
    why: str


def find(folders: Sequence[str]) -> list[pathlib.Path]:
    """The models in these folders, or in folders below. Raises `UserError` for a folder that holds none."""
    found: list[pathlib.Path] = []
    for given in folders:
        top = pathlib.Path(given).expanduser()
        if not top.is_dir():
            raise UserError("no such folder", where=str(top), fix="--models takes folders with config.json inside.")
        deep = [top, *(p for n in range(1, DEPTH + 1) for p in sorted(top.glob("/".join("*" * n))) if p.is_dir())]
        own = [folder for folder in deep if (folder / pretrained.CONFIG).is_file()]
        if not own:
            fix = f"--models takes folders that hold {pretrained.CONFIG}, model.safetensors and a tokenizer."
            raise UserError(f"holds no model ({pretrained.CONFIG} is nowhere in it)", where=str(top), fix=fix)
        found += [folder for folder in own if folder not in found]
    return found


def look(folder: pathlib.Path, texts: Sequence[str], pairs: Sequence[str] | None, labels: int) -> Candidate | Refused:
    """Judges a folder by its config, its tensors' file and its vocabulary. No weights are read."""
    try:
        config = pretrained.read_config(folder)
        arch = architecture(config, pretrained.CONFIG)
        pretrained.Tensors.of(folder)
        tokenizer = Tokenizer.load(folder)
    except UserError as error:
        return Refused(str(folder), str(error))
    if tokenizer.size > arch.vocab_size:
        return Refused(str(folder), f"its tokenizer has {tokenizer.size} tokens, the model {arch.vocab_size}")
    model = Bert(pretrained=str(folder), head=SequenceClassification(labels))
    found = _candidate(str(folder), model, str(folder), tokenizer, texts, pairs)
    if not found.coverage.fits:
        return Refused(str(folder), f"its vocabulary does not fit: {found.coverage}")
    return found


def from_scratch(texts: Sequence[str], pairs: Sequence[str] | None, labels: int, folder: pathlib.Path) -> Candidate:
    """A small BERT with random weights, whose vocabulary is trained on the texts and written into `folder`."""
    pieces = wordpiece.train([*texts, *(pairs or ())], SCRATCH.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    arch = dataclasses.replace(SCRATCH, vocab_size=len(pieces))
    model = Bert(architecture=arch, head=SequenceClassification(labels))
    return _candidate("from scratch", model, str(folder), Tokenizer.load(folder), texts, pairs)


def coverage(tokenizer: Tokenizer, texts: Sequence[str]) -> Coverage:
    """On some of the texts, evenly chosen. Words are runs of letters and digits; each Chinese character or kana is one."""
    some = list(texts)[:: max(len(texts) // SAMPLE, 1)]
    encoded = tokenizer.encode(some, None, 10**6)
    special = np.isin(encoded.ids, [i for i in tokenizer.special_ids if i != tokenizer.unk])
    tokens = encoded.ids[~special]
    unknown = float((tokens == tokenizer.unk).mean()) if tokenizer.unk is not None and len(tokens) else 0.0
    return Coverage(unknown, len(tokens) / max(sum(map(words, some)), 1))


def words(text: str) -> int:
    """Words and marks: what a splitter by spaces, punctuation and ideographs finds."""
    count, inside = 0, False
    for letter in text:
        alone = letter >= "\u2e80" or not letter.isalnum()  # ideographs, kana and Hangul begin there
        count += not letter.isspace() and (alone or not inside)
        inside = not alone
    return count


def _candidate(
    name: str, model: Bert, folder: str, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None
) -> Candidate:
    lengths = tokenizer.encode(texts, pairs, 10**6).lengths
    size = parameters.count(model.build(policy("float32")).leaves)
    return Candidate(name, model, folder, coverage(tokenizer, [*texts, *(pairs or ())]), lengths, size)
