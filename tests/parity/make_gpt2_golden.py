"""Writes gpt2_golden.npz: a tiny random GPT-2 of Hugging Face, and what it computes. Run by hand; no test imports it.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 transformers numpy
    /tmp/torch/bin/python tests/parity/make_gpt2_golden.py

Written with torch 2.13.0 and transformers 5.23.0. The file holds `weight/<name>` and `gradient/<name>` under Hugging
Face's names, `ids` int64[3, 17], their `logits`, the mean next-token `loss`, a `prompt` int64[1, 5] and the same with 12
greedily chosen tokens after it (`greedy`). Torch computes in float64, so that all rounding left to see is lepjax's own;
the weights are float16 numbers, which halves their size and loses nothing.
"""

import pathlib

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(8)
config = GPT2Config(
    vocab_size=61, n_positions=24, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    bos_token_id=0, eos_token_id=None, attn_implementation="eager",
)  # fmt: skip
model = GPT2LMHeadModel(config).double().eval()
names = [name for name, _ in model.named_parameters()]  # the output is tied to wte and not listed again
with torch.no_grad():
    for name, weight in model.named_parameters():
        # Far from the initial 0.02, 0 and 1: every bias and scale matters, and attention is far from uniform.
        centre = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
        weight.copy_((centre + 0.3 * torch.randn_like(weight)).half())

ids = torch.randint(config.vocab_size, (3, 17))
output = model(ids, labels=ids)
output.loss.backward()

prompt = torch.randint(config.vocab_size, (1, 5))
greedy = model.generate(
    prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0
)
best = model(greedy).logits[0, 4:-1].topk(2).values
margin, distinct = (best[:, 0] - best[:, 1]).min().item(), len(set(greedy[0, 5:].tolist()))
assert margin > 0.01 and distinct > 5, (margin, distinct)  # no tie to lose by rounding, and no one token forever

weights = {f"weight/{name}": model.get_parameter(name).detach().numpy().astype(np.float16) for name in names}
gradients = {f"gradient/{name}": model.get_parameter(name).grad.numpy().astype(np.float32) for name in names}
path = pathlib.Path(__file__).with_name("gpt2_golden.npz")
np.savez_compressed(
    path,
    ids=ids.numpy(),
    logits=output.logits.detach().numpy().astype(np.float32),
    loss=output.loss.item(),
    prompt=prompt.numpy(),
    greedy=greedy.numpy(),
    **weights,
    **gradients,
)
print(f"{path}: {path.stat().st_size:,} bytes, loss {output.loss.item():.4f}, margin {margin:.3f}, distinct {distinct}")
