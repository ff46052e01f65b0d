"""The other side of `sweeps`: Optuna drives a plain PyTorch loop. It runs in an environment of its own.

Needs     pip install torch optuna numpy   (nothing of lepjax)
Command   python sweeps_peer.py DIGITS.npz STEPS THREADS plain|fused
          plain: AdamW as it comes; fused: with fused=True. DIGITS.npz holds x, dev_x float32[rows, 64] and y, dev_y
          int[rows]; for every line `N` on stdin N trials are run, in a study in memory with Optuna's random sampler;
          answers seconds per trial and the best loss
Answers   lines of JSON on stdout
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import optuna
import torch
from torch import nn

BATCH = 64


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def objective(trial: optuna.Trial, data: dict[str, torch.Tensor], steps: int, fused: bool) -> float:
    torch.manual_seed(0)
    model = network()
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    decay = trial.suggest_float("weight_decay", 1e-4, 1.0, log=True)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=decay, fused=fused or None)
    warmup = steps * 0.05

    def factor(step: int) -> float:
        done = max(step - warmup, 0) / (steps - warmup)
        return min(step / warmup, 1.0) * 0.5 * (1 + np.cos(np.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rng, order = np.random.default_rng(0), np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = np.concatenate([order, rng.permutation(len(data["x"]))])
        rows, order = torch.from_numpy(order[:BATCH]), order[BATCH:]
        loss = nn.functional.cross_entropy(model(data["x"][rows]), data["y"][rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(data["dev_x"]), data["dev_y"]))


def main() -> None:
    steps, fused = int(sys.argv[2]), {"plain": False, "fused": True}[sys.argv[4]]
    torch.set_num_threads(int(sys.argv[3]))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    loaded = np.load(sys.argv[1], allow_pickle=False)
    data = {name: torch.from_numpy(loaded[name]) for name in loaded}
    data = {name: x.long() if name.endswith("y") else x for name, x in data.items()}
    print(json.dumps({"versions": f"optuna {optuna.__version__}, torch {torch.__version__}"}), flush=True)
    for line in sys.stdin:
        count, begun = int(line), time.perf_counter()
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(lambda trial: objective(trial, data, steps, fused), n_trials=count)
        seconds = (time.perf_counter() - begun) / count
        print(json.dumps({"seconds": seconds, "best": study.best_value}), flush=True)


if __name__ == "__main__":
    main()
