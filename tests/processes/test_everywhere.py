"""A run may be stopped anywhere. (The fast tier's stops: test_resume.py.)"""

import dataclasses

import pytest

from lepjax.core.spikes import SkipSpikes
from lepjax.data.batching import Buckets
from lepjax.experiment import Steps
from lepjax.run import files
from lepjax.testing import Job, hex_losses, in_fresh_processes
from tests.labelled import Labelled, labelled
from tests.processes.experiments import experiment

pytestmark = pytest.mark.full
STEPS = 17


def accumulated(run):
    """Skipped steps, an average, evaluations, a best step; microbatches, a guard's statistics; nothing is read ahead."""
    return dataclasses.replace(
        experiment(run, "data=1", STEPS), accumulate=2, readers=0, spikes=SkipSpikes(window=8, warmup=4)
    )


def in_buckets(run):
    """Batches of several lengths over more than one epoch; two threads read ahead."""
    return labelled(
        data=Labelled(batch_size=8, batching=Buckets(lengths=(8, 12, 16)), records=72),
        run_dir=str(run),
        length=Steps(STEPS),
        evaluate_every=Steps(5),
        best="dev_loss",
        log_every=1,
        readers=2,
    )


KINDS = {kind.__name__: kind for kind in (accumulated, in_buckets)}


@pytest.fixture(scope="module", params=KINDS)
def runs(request, tmp_path_factory):
    """One process is the oracle, one stops at every step, another goes on from each."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp(request.param)
    in_fresh_processes([Job(kind(folder / "oracle"))])
    in_fresh_processes([Job(kind(folder / f"stop{stop}"), stop) for stop in range(STEPS)], timeout=1200)
    in_fresh_processes([Job(kind(folder / f"stop{stop}")) for stop in range(STEPS)], timeout=1200)
    return folder


def result(run):
    values = files.read_json(run / "result.json")
    return {k: v for k, v in values.items() if k not in ("seconds", "reason", "tokens", "checkpoints")}


@pytest.mark.parametrize("stop", range(STEPS))
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(runs, stop):
    assert len(hex_losses(runs / "oracle")) == STEPS
    assert hex_losses(runs / f"stop{stop}") == hex_losses(runs / "oracle")
    assert result(runs / f"stop{stop}") == result(runs / "oracle")
