"""Who is there, before `jax.distributed` begins: it would abort with a stack trace where a process is missing.

Every process tells rank 0 its facts (versions, a hash of the experiment). Rank 0 compares them with its own and answers all
of them with the same verdict: a line that says who is missing or what differs, or nothing.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from lepjax.core.errors import UserError
from lepjax.run.ranks import Rank

Facts = dict[str, str]


def roll_call(rank: Rank, facts: Facts, seconds: float) -> None:
    """Returns when all processes are there with equal facts. Raises `UserError` on all of them otherwise.

    Rank 0 waits for the others at `rank.coordinator`, whose port is free again afterwards.
    """
    verdict = _listen(rank, facts, seconds) if rank.index == 0 else _report(rank, facts, seconds)
    if verdict:
        raise UserError(**verdict)


def difference(facts: dict[int, Facts]) -> dict[str, str] | None:
    """The first fact in which a rank differs from rank 0, as the words of a `UserError`."""
    for index, theirs in sorted(facts.items()):
        for name in sorted(facts[0].keys() | theirs.keys()):
            ours, other = facts[0].get(name, "nothing"), theirs.get(name, "nothing")
            if ours != other:
                found = f"{name} is {other}, that of rank 0 is {ours}"
                return {"found": found, "where": f"rank {index}", "fix": "Start the same on every host."}
    return None


def _listen(rank: Rank, facts: Facts, seconds: float) -> dict[str, str] | None:
    end = time.monotonic() + seconds
    found: dict[int, Facts] = {0: facts}
    callers: list[socket.socket] = []
    try:
        server = socket.create_server(("", rank.port))
    except OSError as error:
        where = f"port {rank.port} for {rank.count} processes"
        raise UserError(f"cannot be opened ({error.strerror})", where=where, fix="Is another job using it?") from error
    with server:
        while len(found) < rank.count and (left := end - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                caller = server.accept()[0]
                caller.settimeout(5.0)
                told = _receive(caller)
                found[int(told["rank"])] = dict(told["facts"])
                callers.append(caller)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # late, or no process of ours
        verdict = _missing(rank, found, seconds) or difference(found)
        for caller in callers:
            _answer(caller, verdict)
    return verdict


def _missing(rank: Rank, found: dict[int, Facts], seconds: float) -> dict[str, str] | None:
    missing = [str(index) for index in range(rank.count) if index not in found]
    if not missing:
        return None
    names = ("rank " if len(missing) == 1 else "ranks ") + ", ".join(missing)
    return {
        "found": f"{names} of {rank.count} did not report within {seconds:.0f} s",
        "where": rank.coordinator,
        "fix": "Start the command on every host and look at their output; LEPJAX_JOIN_SECONDS waits longer.",
    }


def _report(rank: Rank, facts: Facts, seconds: float) -> dict[str, str] | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with socket.create_connection((rank.host.strip("[]"), rank.port), timeout=2.0) as line:
                line.sendall(json.dumps({"rank": rank.index, "facts": facts}).encode() + b"\n")
                line.settimeout(seconds + 10.0)  # rank 0 gives up by itself
                return _receive(line)["verdict"]
        except (OSError, ValueError):
            time.sleep(0.1)  # rank 0 is not there yet
    return {
        "found": f"rank 0 of {rank.count} does not answer within {seconds:.0f} s",
        "where": f"rank {rank.index}, {rank.coordinator}",
        "fix": "Start the command on every host and look at the output of rank 0.",
    }


def _receive(line: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        part = line.recv(65536)
        if not part:
            raise ValueError("cut short")
        data += part
    return json.loads(data)


def _answer(caller: socket.socket, verdict: dict[str, str] | None) -> None:
    with caller:
        try:
            caller.sendall(json.dumps({"verdict": verdict}).encode() + b"\n")
            caller.recv(1)  # until they hang up: who does so first keeps the port for a while, and rank 0 needs it now
        except OSError:
            pass  # gone: `jax.distributed` will tell
