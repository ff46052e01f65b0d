"""After training a language model: classical baselines on the same bytes, and a sample of what it writes."""

from __future__ import annotations

import dataclasses

from lepjax.core.errors import UserError
from lepjax.core.sharding import gathered
from lepjax.data.tokens import TokenWindows
from lepjax.experiment import FinalEvaluation
from lepjax.models.generation import Generator, Sampling
from lepjax.run.final import Section, Trained
from lepjax.tasks import baselines


@dataclasses.dataclass(frozen=True)
class TextBaselines(FinalEvaluation):
    """Bits per byte of a bigram, an interpolated 5-gram and xz on the held-out bytes the model was scored on."""

    split: str = "heldout"
    """The evaluation split."""

    def evaluate(self, trained: Trained) -> Section:
        train = trained.built.splits.train
        heldout = trained.built.splits.evaluation.get(self.split)
        if not isinstance(train, TokenWindows) or not isinstance(heldout, TokenWindows):
            raise UserError(f"no byte windows in the split {self.split!r}", where="final.split")
        texts = (train.tokens, heldout.tokens)
        values = {
            f"{self.split}_bits_per_byte": trained.results[f"{self.split}_bits_per_byte"],
            "bigram_bits_per_byte": baselines.bigram_bits_per_byte(*texts),
            "ngram5_bits_per_byte": baselines.ngram_bits_per_byte(*texts, order=5),
            "lzma_bits_per_byte": baselines.lzma_bits_per_byte(heldout.tokens),
        }
        labels = ("this model", "bigram", "5-gram, interpolated", "xz (lzma)")
        title = f"Bits per byte on the same {len(heldout.tokens) - 1:,} {self.split} bytes (lower is better)"
        return Section(title, values, tuple(zip(labels, values.values(), strict=True)))


@dataclasses.dataclass(frozen=True)
class TextSample(FinalEvaluation):
    """Text the model writes after a prompt."""

    prompt: str = "def "
    """What it continues."""
    tokens: int = 300
    """How much it writes."""
    sampling: Sampling = Sampling(temperature=0.7, top_p=0.95)
    """How the next token is chosen."""

    def evaluate(self, trained: Trained) -> Section:
        return Section(f"Sample after {self.prompt!r}", text=generate(trained, self.prompt, self.tokens, self.sampling))


def generate(trained: Trained, prompt: str, tokens: int, sampling: Sampling, seed: int = 0) -> str:
    """The prompt and its continuation."""
    vocabulary = trained.built.splits.vocabulary
    context = getattr(trained.built.experiment.model, "context", None)
    if vocabulary is None or context is None:
        raise UserError("the experiment is no text model with a vocabulary", where="generate")
    generator = Generator(trained.built.model, context)
    params = gathered(trained.params, trained.built.placement)
    out = generator(params, vocabulary.encode(prompt)[None], tokens, sampling, seed)
    return vocabulary.decode(out[0])
