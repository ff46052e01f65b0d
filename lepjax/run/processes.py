"""Several processes as one run: they join once, agree on what must be equal, and stop after the same step."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the key-value store of the job has no public name
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from lepjax.core.errors import DONE, RESTART, UserError, guarded
from lepjax.run import ranks
from lepjax.run.rollcall import Facts, difference, roll_call

JOIN_SECONDS = 60.0
AGREE_SECONDS = 3600.0  # one process may have to fetch its data first; where one dies, JAX ends the others
LOST = re.compile(r"[Gg]loo|Connection (closed|reset)|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|coordination|peer")
_leaving = threading.Lock()
_turns = itertools.count()  # every process comes by the same places in the same order


def join(facts: Facts) -> None:
    """Makes this process one of its job, if it was started as one of several. Nothing may have been computed yet.

    Raises `UserError`, on every process, that names the ranks which are missing or whose `facts` differ.
    """
    rank = ranks.detect(os.environ)
    if rank is None or jax.distributed.is_initialized():
        return
    # JAX would catch SIGTERM for itself; `Meeting` lets all stop, whoever received it.
    jax.config.update("jax_enable_preemption_service", False)
    roll_call(rank, facts, float(os.environ.get("LEPJAX_JOIN_SECONDS", JOIN_SECONDS)))
    jax.distributed.initialize(
        rank.coordinator,
        rank.count,
        rank.index,
        local_device_ids=ranks.own_gpus(rank, len(ranks.visible_gpus(os.environ))),
        cluster_detection_method="deactivate",
    )
    jax.devices()  # the processes tell each other what they have: nobody may fail, and be gone, before all know
    client().wait_at_barrier("lepjax/joined", int(1000 * AGREE_SECONDS))


def main_process() -> bool:
    """Whether this is the one that writes and prints."""
    return jax.process_index() == 0


def agree(topic: str, facts: Facts) -> None:
    """Raises `UserError` on every process where the facts of one differ."""
    if jax.process_count() == 1:
        return
    store, key = client(), f"lepjax/{next(_turns)}/{topic}"
    store.key_value_set(f"{key}/{jax.process_index()}", json.dumps(facts))
    told = {i: json.loads(get(store, f"{key}/{i}", AGREE_SECONDS)) for i in range(jax.process_count())}
    if different := difference(told):
        raise UserError(**different)


def on_main(work: Callable[[], Any]) -> Any:
    """What `work()` returns on rank 0 (JSON), on every process; the `UserError` it raises there is raised everywhere."""
    if jax.process_count() == 1:
        return work()
    store, key = client(), f"lepjax/{next(_turns)}/main"
    if not main_process():
        told = json.loads(get(store, key, AGREE_SECONDS))
        if "error" in told:
            raise UserError(**told["error"])
        return told["value"]
    try:
        value = work()
    except UserError as error:
        told = {"found": error.found, "where": error.where, "fix": error.fix}
        store.key_value_set(key, json.dumps({"error": told}))
        raise
    except BaseException as error:
        told = {"found": f"failed with {error!r}", "where": "rank 0", "fix": "Look at its output."}
        store.key_value_set(key, json.dumps({"error": told}))
        raise
    store.key_value_set(key, json.dumps({"value": value}))
    return value


def meet() -> None:
    """Returns when all processes are here. The first time, JAX compiles a small program for it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("lepjax")


def total(share: float) -> float:
    """The sum of what the processes give, the same on all of them."""
    if jax.process_count() == 1:
        return share
    store, key = client(), f"lepjax/{next(_turns)}/total"
    store.key_value_set(f"{key}/{jax.process_index()}", json.dumps(share))
    return sum(json.loads(get(store, f"{key}/{i}", AGREE_SECONDS)) for i in range(jax.process_count()))


def client() -> Any:
    return distributed.global_state.client


def get(client: Any, key: str, seconds: float) -> str:
    """The value that some process gives a key; waits for it in pieces, between which signals are handled."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        try:
            return client.blocking_key_value_get(key, int(1000 * max(min(left, 1.0), 0.001)))
        except JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error) or left <= 1.0:
                raise


def ended(command: Callable[[], int]) -> int:
    """Runs a command of this process. Where one of several fails it ends at once, its error told: in the usual way it
    would first wait for the others, which wait for it. Where another one is gone, the job is to be restarted.
    """
    if jax.process_count() == 1:
        return command()

    def told() -> int:
        try:
            return command()
        except (JaxRuntimeError, ValueError) as error:
            if not LOST.search(str(error)):
                raise
            leave(RESTART, f"another process is gone ({' '.join(str(error).split())[:200]})")

    code = guarded(told)
    if code not in (DONE, RESTART):
        leave(code)
    return code


def leave(code: int, why: str = "") -> NoReturn:
    """Ends this process at once, also from a thread while another one is inside a compiler or waits for a device."""
    with _leaving:  # of two threads with a reason one tells it, the other waits for the end
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.write(f"lepjax: {why}\n" if why else "")
            sys.stderr.flush()
        os._exit(code)
