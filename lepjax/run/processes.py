"""Several processes as one run: they join once, agree on what must be equal, and stop after the same step."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # the key-value store of the job has no public name
from jax.errors import JaxRuntimeError

from lepjax.core.errors import UserError
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
    roll_call(rank, facts, float(os.environ.get("LEPJAX_JOIN_SECONDS", JOIN_SECONDS)))
    jax.distributed.initialize(
        rank.coordinator,
        rank.count,
        rank.index,
        local_device_ids=ranks.own_gpus(rank, ranks.visible_gpus(os.environ)),
        cluster_detection_method="deactivate",
    )


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
    client.key_value_set(key, json.dumps({"value": value}))
    return value


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
    return client.blocking_key_value_get(key, int(seconds * 1000))


class Meeting:
    """Finds one step after which all processes stop, when any of them asks for it.

    A thread of each process waits for the question. Then it holds its process between two steps and tells how far that
    has come; all go on to the step after the farthest. (Were it the main thread that waits, one could wait for another
    whose device waits for the first.)
    """

    def __init__(self, step: int) -> None:
        self.reason = ""
        self._step, self._stop_at, self._asked = step, -1, False
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
            self._tell()  # for those that are only now asked

    def _tell(self) -> None:
        self._client.key_value_set(f"{self._key}/{jax.process_index()}", str(self._step), allow_overwrite=True)

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                reason = _get(self._client, f"{self._key}/why", 0.5)
            except JaxRuntimeError:  # nobody asked so far
                continue
            with self._turn:
                self._tell()
                steps = [int(_get(self._client, f"{self._key}/{i}", AGREE_SECONDS)) for i in range(jax.process_count())]
                self.reason, self._stop_at = reason, max(steps) + 1
            return
