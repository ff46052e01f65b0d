"""Several processes as one run: they join once, agree on what must be equal, and stop after the same step."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # the key-value store of the job has no public name
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from lepjax.core.errors import DONE, RESTART, UserError, guarded
from lepjax.run import ranks
from lepjax.run.rollcall import Facts, difference, roll_call

JOIN_SECONDS = 60.0
AGREE_SECONDS = 3600.0  # one process may have to fetch its data first; where one dies, JAX ends the others
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
    _client().wait_at_barrier("lepjax/joined", int(1000 * AGREE_SECONDS))


def main_process() -> bool:
    """Whether this is the one that writes and prints."""
    return jax.process_index() == 0


def agree(topic: str, facts: Facts) -> None:
    """Raises `UserError` on every process where the facts of one differ."""
    if jax.process_count() == 1:
        return
    client, key = _client(), f"lepjax/{next(_turns)}/{topic}"
    client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(facts))
    told = {i: json.loads(_get(client, f"{key}/{i}", AGREE_SECONDS)) for i in range(jax.process_count())}
    if different := difference(told):
        raise UserError(**different)


def on_main(work: Callable[[], Any]) -> Any:
    """What `work()` returns on rank 0 (JSON), on every process; the `UserError` it raises there is raised everywhere."""
    if jax.process_count() == 1:
        return work()
    client, key = _client(), f"lepjax/{next(_turns)}/main"
    if not main_process():
        told = json.loads(_get(client, key, AGREE_SECONDS))
        if "error" in told:
            raise UserError(**told["error"])
        return told["value"]
    try:
        value = work()
    except UserError as error:
        told = {"found": error.found, "where": error.where, "fix": error.fix}
        client.key_value_set(key, json.dumps({"error": told}))
        raise
    except BaseException as error:
        told = {"found": f"failed with {error!r}", "where": "rank 0", "fix": "Look at its output."}
        client.key_value_set(key, json.dumps({"error": told}))
        raise
    client.key_value_set(key, json.dumps({"value": value}))
    return value


def meet() -> None:
    """Returns when all processes are here. The first time, JAX compiles a small program for it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("lepjax")


def total(share: float) -> float:
    """The sum of what the processes give, the same on all of them."""
    if jax.process_count() == 1:
        return share
    client, key = _client(), f"lepjax/{next(_turns)}/total"
    client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(share))
    return sum(json.loads(_get(client, f"{key}/{i}", AGREE_SECONDS)) for i in range(jax.process_count()))


def _client() -> Any:
    return distributed.global_state.client


def _get(client: Any, key: str, seconds: float) -> str:
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
    would first wait for the others, which wait for it.
    """
    if jax.process_count() == 1:
        return command()
    code = guarded(command)
    if code not in (DONE, RESTART):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class Meeting:
    """Finds one step after which all processes stop, when any of them asks for it.

    A thread of each process waits for the question. Then it holds its process between two steps and tells how far that
    has come; all go on to the step after the farthest. (Were it the main thread that waits, one could wait for another
    whose device waits for the first.)
    """

    def __init__(self, step: int) -> None:
        self.reason = ""
        self._step, self._stop_at = step, -1
        self._asked = self._told = False
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._client, self._key = _client(), f"lepjax/{next(_turns)}/stop"
        self._thread: threading.Thread | None = None
        if jax.process_count() > 1:
            self._thread = threading.Thread(target=self._watch, name="meeting", daemon=True)
            self._thread.start()

    def ask(self, reason: str) -> None:
        """Asks all processes to stop soon."""
        if self._asked:
            return
        self._asked = True
        if self._thread is None:
            self.reason, self._stop_at = reason, self._step
        else:
            self._client.key_value_set(f"{self._key}/why", reason, allow_overwrite=True)

    def passed(self, step: int) -> bool:
        """Tells that `step` was taken; whether it is the last."""
        with self._turn:
            self._step = step
            return 0 <= self._stop_at <= step

    def close(self) -> None:
        """This process takes no more steps."""
        if self._thread is not None:
            self._closed.set()
            self._thread.join(timeout=10.0)
            if not self._told:
                self._tell()  # for those that are only now asked

    def _tell(self) -> None:
        self._told = True
        self._client.key_value_set(f"{self._key}/{jax.process_index()}", str(self._step), allow_overwrite=True)

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                reason = _get(self._client, f"{self._key}/why", 0.5)
            except JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    continue  # nobody asked so far
                return
            with self._turn:
                self._tell()
                steps = [int(_get(self._client, f"{self._key}/{i}", AGREE_SECONDS)) for i in range(jax.process_count())]
                self.reason, self._stop_at = reason, max(steps) + 1
            return
