"""The other side of `gpt_vs_torch`: nanoGPT's model and step in eager PyTorch. It runs in an environment of its own.

Needs     pip install torch==2.13.0 numpy   (nothing of lepjax)
Command   python gpt_vs_torch_peer.py START.npz SETTING.json
          START.npz holds `tokens` and `targets` int64[batches, rows, length] and the initial weights by name;
          runs a block of N training steps for every line `N` on stdin, answers with the seconds per step and the losses
Answers   lines of JSON on stdout
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

THREADS = 2
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Gpt:
    """Sizes of a GPT, named as lepjax's `Gpt2` names them."""

    vocab_size: int
    context: int
    layers: int
    heads: int
    width: int
    bias: bool


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW and clipping."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float


class LayerNorm(nn.Module):
    """With an optional bias, as nanoGPT has it."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, sizes: Gpt) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.c_attn = nn.Linear(sizes.width, 3 * sizes.width, bias=sizes.bias)
        self.c_proj = nn.Linear(sizes.width, sizes.width, bias=sizes.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(rows, length, width))


class Mlp(nn.Module):
    def __init__(self, sizes: Gpt) -> None:
        super().__init__()
        self.c_fc = nn.Linear(sizes.width, 4 * sizes.width, bias=sizes.bias)
        self.c_proj = nn.Linear(4 * sizes.width, sizes.width, bias=sizes.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # GPT-2's; nanoGPT's is the exact one


class Block(nn.Module):
    def __init__(self, sizes: Gpt) -> None:
        super().__init__()
        self.ln_1, self.attn = LayerNorm(sizes.width, sizes.bias), Attention(sizes)
        self.ln_2, self.mlp = LayerNorm(sizes.width, sizes.bias), Mlp(sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """tokens, targets int64[rows, length] -> the loss. `stream`: dtype of the sums between blocks."""

    def __init__(self, sizes: Gpt, stream: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.stream = stream
        self.wte = nn.Embedding(sizes.vocab_size, sizes.width)
        self.wpe = nn.Embedding(sizes.context, sizes.width)
        self.h = nn.ModuleList([Block(sizes) for _ in range(sizes.layers)])
        self.ln_f = LayerNorm(sizes.width, sizes.bias)
        start(self)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], dtype=torch.long, device=tokens.device)
        x = (self.wte(tokens) + self.wpe(positions)).to(self.stream)
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def start(model: nn.Module) -> None:
    """Normal weights of standard deviation 0.02: good enough for timing where no weights are given."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def load(model: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Raises RuntimeError where the names or shapes differ."""
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=True)


def make_optimizer(model: nn.Module, chosen: Optimizer) -> torch.optim.Optimizer:
    """As nanoGPT: what has two dimensions decays. Fused is the fastest of the three implementations, on CPUs too."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": chosen.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    betas = (chosen.beta1, chosen.beta2)
    return torch.optim.AdamW(groups, lr=chosen.learning_rate, betas=betas, eps=chosen.eps, fused=True)


def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float) -> Callable[..., torch.Tensor]:
    parameters = list(model.parameters())

    def step(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def serve(step: Callable[..., torch.Tensor], batches: list[Batch]) -> None:
    """Runs as many steps as each line of stdin says."""
    say({"versions": f"torch {torch.__version__}, {torch.get_num_threads()} threads"})
    stream = itertools.cycle(batches)
    for line in sys.stdin:
        losses, began = [], time.perf_counter()
        for tokens, targets in itertools.islice(stream, int(line)):
            losses.append(step(tokens, targets))
        seconds = (time.perf_counter() - began) / int(line)
        say({"seconds": seconds, "losses": [float(loss) for loss in losses]})


def say(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def read(file: pathlib.Path) -> tuple[list[Batch], dict[str, np.ndarray]]:
    """(batches, initial weights)"""
    with np.load(file, allow_pickle=False) as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    tokens, targets = (torch.from_numpy(weights.pop(name)) for name in ("tokens", "targets"))
    return list(zip(tokens, targets, strict=True)), weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=pathlib.Path, help="tokens, targets and initial weights (.npz)")
    parser.add_argument("setting", type=pathlib.Path, help="{model: sizes, optimizer: settings} (.json)")
    chosen = parser.parse_args()
    torch.set_num_threads(THREADS)
    setting = json.loads(chosen.setting.read_text())
    batches, weights = read(chosen.start)
    model, optimizer = GPT(Gpt(**setting["model"])), Optimizer(**setting["optimizer"])
    load(model, weights)
    serve(make_step(model, make_optimizer(model, optimizer), optimizer.clip_norm), batches)


if __name__ == "__main__":
    main()
