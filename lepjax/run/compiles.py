"""Which programs the compiler is asked for, and which of them come too late."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from lepjax.run.callbacks import Callback
from lepjax.run.fit import Loop

COMPILED, HIT = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass(frozen=True)
class Program:
    """One program: its function's name, the seconds it took, and whether it came from the persistent cache."""

    name: str
    seconds: float
    cached: bool


class Compiles:
    """While inside, lists every program that is compiled or loaded from the cache."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self._hit = False

    def __enter__(self) -> Compiles:
        jax.monitoring.register_event_listener(self._event)
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        return self

    def __exit__(self, *exc: object) -> None:
        jax.monitoring.unregister_event_listener(self._event)
        jax.monitoring.unregister_event_duration_listener(self._duration)

    def _event(self, event: str, **_: Any) -> None:
        self._hit = self._hit or event == HIT

    def _duration(self, event: str, duration_secs: float, **details: Any) -> None:
        if event == COMPILED:
            self.programs.append(Program(str(details.get("fun_name", "a program")), duration_secs, self._hit))
            self._hit = False

    def told(self) -> str:
        """`3 programs, 2 from the cache`."""
        count, cached = len(self.programs), sum(program.cached for program in self.programs)
        some = f"{count} program" + "s" * (count != 1)
        return f"{some}, " + ("all" if cached == count else str(cached) if cached else "none") + " from the cache"


class WatchCompiles(Callback):
    """Tells of every program that is compiled after the first `spared` steps: each makes the run wait.

    The training step itself cannot be among them: it is compiled for its shapes beforehand, and refuses others.
    """

    def __init__(self, say: Callable[[str], None], spared: int = 1) -> None:
        self.say, self.spared = say, spared  # in the first step callbacks meet their first values
        self.compiles = Compiles()
        self.late: list[Program] = []
        self._from, self._watching = 0, False

    def started(self, loop: Loop) -> None:
        self.compiles.__enter__()
        self._watching = True
        self._from = loop.step + self.spared

    def stepped(self, loop: Loop) -> None:
        self._tell(loop)

    def published(self, loop: Loop, step: int, values: Any) -> None:
        self._tell(loop)

    def _tell(self, loop: Loop) -> None:
        new, self.compiles.programs = self.compiles.programs, []
        if loop.step <= self._from:
            return
        self.late += new
        for program in new:
            how = "loaded from the cache" if program.cached else "compiled"
            self.say(f"{program.name} was {how} after step {loop.step} ({program.seconds:.2f} s): is a shape new?")

    def finished(self, loop: Loop) -> None:
        if self._watching:
            self._tell(loop)
            self.compiles.__exit__()
            self._watching = False
