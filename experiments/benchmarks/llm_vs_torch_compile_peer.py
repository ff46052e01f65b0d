"""The other side of `llm_vs_torch_compile`: GPT-2 and Llama in PyTorch, compiled. It runs in an environment of its own.

Needs     pip install torch==2.13.0 numpy   (nothing of lepjax)
Command   python llm_vs_torch_compile_peer.py START.npz WANTED.json
          START.npz holds `tokens` and `targets` int64[batches, rows, length] and perhaps initial weights by name
Answers   one line of JSON on stdout: versions, device, seconds per step of every block, first losses, memory, kernels
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import itertools
import json
import pathlib
import time
from typing import Any

import torch
from gpt_vs_torch_peer import GPT, Batch, Gpt, Optimizer, load, make_optimizer, make_step, read, say, start
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

FLASH = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION)
LOSSES = 5


@dataclasses.dataclass(frozen=True)
class Llama:
    """Sizes of a Llama with tied embeddings, named as lepjax's `LlamaArchitecture` names them."""

    vocab_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    eps: float
    theta: float


@dataclasses.dataclass(frozen=True)
class Wanted:
    """How to run; `llm_vs_torch_compile.Wanted` says what the fields mean."""

    kind: str
    model: dict[str, Any]
    optimizer: dict[str, float]
    precision: str
    compile: bool
    device: str
    warmup: int
    blocks: int
    steps: int


class SelfAttention(nn.Module):
    def __init__(self, sizes: Llama) -> None:
        super().__init__()
        self.size = sizes.width // sizes.heads
        self.query = nn.Linear(sizes.width, sizes.width, bias=False)
        self.key = nn.Linear(sizes.width, sizes.kv_heads * self.size, bias=False)
        self.value = nn.Linear(sizes.width, sizes.kv_heads * self.size, bias=False)
        self.output = nn.Linear(sizes.width, sizes.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = (
            part(x).view(rows, length, -1, self.size).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.output(y.transpose(1, 2).contiguous().view(rows, length, width))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """In float32; i is paired with i + size / 2."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class SwiGlu(nn.Module):
    def __init__(self, sizes: Llama) -> None:
        super().__init__()
        self.gate = nn.Linear(sizes.width, sizes.mlp_width, bias=False)
        self.up = nn.Linear(sizes.width, sizes.mlp_width, bias=False)
        self.down = nn.Linear(sizes.mlp_width, sizes.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self, sizes: Llama) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.RMSNorm(sizes.width, sizes.eps), SelfAttention(sizes)
        self.mlp_norm, self.mlp = nn.RMSNorm(sizes.width, sizes.eps), SwiGlu(sizes)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.mlp(self.mlp_norm(x))


class LlamaModel(nn.Module):
    """tokens, targets int64[rows, length] -> the loss. `stream`: dtype of the sums between layers."""

    def __init__(self, sizes: Llama, length: int, stream: torch.dtype) -> None:
        super().__init__()
        self.stream = stream
        self.embed = nn.Embedding(sizes.vocab_size, sizes.width)
        self.layers = nn.ModuleList([Layer(sizes) for _ in range(sizes.layers)])
        self.norm = nn.RMSNorm(sizes.width, sizes.eps)
        size = sizes.width // sizes.heads
        frequencies = sizes.theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = (torch.arange(length)[:, None] * frequencies).float()
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        start(self)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).to(self.stream)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.view(-1, logits.size(-1)).float(), targets.view(-1))


class Cast(nn.Module):
    """A loss computed under autocast, where the precision asks for it."""

    def __init__(self, model: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.device, self.dtype = model, device, dtype

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            return self.model(tokens, targets)


def build(wanted: Wanted, length: int, dtype: torch.dtype) -> nn.Module:
    if wanted.kind == "gpt2":
        return GPT(Gpt(**wanted.model), dtype)
    return LlamaModel(Llama(**wanted.model), length, dtype)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def top_kernels(step: Any, batch: Batch, device: str, count: int = 15) -> dict[str, float]:
    """{name: milliseconds per step} of what two steps spend most time in."""
    cuda = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as traced:
        for _ in range(2):
            step(*batch)
        wait(device)
    spent: collections.Counter[str] = collections.Counter()
    for event in traced.key_averages():
        spent[event.key] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 2e3
    return dict(spent.most_common(count))


def run(wanted: Wanted, file: pathlib.Path) -> dict[str, Any]:
    cuda, dtype = wanted.device == "cuda", getattr(torch, wanted.precision)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if dtype != torch.float32 else "highest")
    batches, weights = read(file)
    batches = [(tokens.to(wanted.device), targets.to(wanted.device)) for tokens, targets in batches]
    with torch.device(wanted.device):
        model = build(wanted, batches[0][0].shape[1], dtype)
    if weights:
        load(model, weights)
    chosen = Optimizer(**wanted.optimizer)
    called: Any = Cast(model, wanted.device, dtype)
    step = make_step(
        torch.compile(called) if wanted.compile else called, make_optimizer(model, chosen), chosen.clip_norm
    )
    stream = itertools.cycle(batches)
    begun = time.perf_counter()
    with sdpa_kernel(list(FLASH)) if cuda else contextlib.nullcontext():  # an error where neither can be used
        losses = [float(step(*next(stream)))]
        first = time.perf_counter() - begun
        losses += [float(step(*next(stream))) for _ in range(LOSSES - 1)]
        for batch in itertools.islice(stream, wanted.warmup):
            step(*batch)
        seconds = []
        for _ in range(wanted.blocks):
            wait(wanted.device)
            begun = time.perf_counter()
            for batch in itertools.islice(stream, wanted.steps):
                step(*batch)
            wait(wanted.device)
            seconds.append((time.perf_counter() - begun) / wanted.steps)
        kernels = top_kernels(step, batches[0], wanted.device) if wanted.blocks else {}
    return {
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "parameters": sum(p.numel() for p in model.parameters()),
        "losses": losses,
        "first_step_seconds": first,
        "seconds": seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "kernels_ms": kernels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=pathlib.Path, help="tokens, targets and perhaps initial weights (.npz)")
    parser.add_argument("wanted", type=pathlib.Path, help="what to run (.json)")
    chosen = parser.parse_args()
    say(run(Wanted(**json.loads(chosen.wanted.read_text())), chosen.start))


if __name__ == "__main__":
    main()
