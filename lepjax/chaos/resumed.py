"""What becomes of many run directories that a fresh process goes on with."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

from lepjax.chaos.trial import Trial
from lepjax.core.errors import CONFIGURATION, RESTART
from lepjax.core.serialise import to_json
from lepjax.experiment import Experiment

SILENCE = 300.0  # seconds that one run may take


@dataclasses.dataclass(frozen=True)
class Resumed:
    """The exit code of a resumed run and what it printed."""

    code: int
    told: str

    @property
    def unclear(self) -> str:
        """Why this is no refusal in one clear line; empty: it is one."""
        last = (self.told.strip().splitlines() or [""])[-1]
        if self.code in (CONFIGURATION, RESTART) and last.startswith("lepjax: ") and "Traceback" not in self.told:
            return ""
        return f"ended with {self.code} and without one clear line: {last[-300:]}"


def go_on(experiments: Sequence[Experiment], folder: pathlib.Path, environment: Mapping[str, str]) -> list[Resumed]:
    """Goes on with each experiment's `run_dir` in one fresh process; in another one after a run that killed it."""
    jobs, told = folder / "jobs.json", folder / "told.jsonl"
    found: list[Resumed] = []
    while len(found) < len(experiments):
        told.unlink(missing_ok=True)
        left = experiments[len(found) :]
        jobs.write_text(json.dumps([to_json(experiment) for experiment in left]), encoding="utf-8")
        command = [sys.executable, "-m", "lepjax.chaos.worker", str(jobs), str(told)]
        trial = Trial(command, folder, environment, folder / "worker")
        code = _followed(trial, told)
        answers = [json.loads(line) for line in _lines(told)]
        found += [Resumed(answer["code"], answer["told"]) for answer in answers]
        if len(answers) < len(left):
            found.append(Resumed(code, trial.last_words()))
    return found


def _followed(trial: Trial, told: pathlib.Path) -> int:
    """The exit code of a worker, which is killed when a run takes too long."""
    seen, since = 0, time.monotonic()
    while trial.ended(0.05) is None and time.monotonic() - since < SILENCE:
        if len(_lines(told)) > seen:
            seen, since = len(_lines(told)), time.monotonic()
    trial.kill()
    return trial.process.returncode


def _lines(told: pathlib.Path) -> list[str]:
    """Whole lines so far."""
    text = told.read_text(encoding="utf-8") if told.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()
