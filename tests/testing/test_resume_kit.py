"""The proof of resuming, as other people's test suites use it. (Ours, with more stops: tests/processes/test_resume.py.)"""

import dataclasses
import os

import numpy as np
import pytest

from lepjax.experiment import Steps
from lepjax.testing import assert_resumes_bitwise
from tests.tiny import TinyText, tiny

pytestmark = pytest.mark.full


@dataclasses.dataclass(frozen=True)
class Forgetful(TinyText):
    """Rows that depend on the process which reads them, as those of an augmentation with a global generator do."""

    def load(self):
        splits = super().load()
        return dataclasses.replace(splits, train=_Noisy(splits.train))


class _Noisy:
    def __init__(self, source):
        self.source, self.digest = source, source.digest
        self.noise = np.random.default_rng(os.getpid())

    def __len__(self):
        return len(self.source)

    def rows(self, ids, epochs):
        rows = self.source.rows(ids, epochs)
        return {**rows, "tokens": self.noise.permuted(rows["tokens"], axis=1)}


@pytest.mark.parametrize("mesh", ["data=1", "data=2,fsdp=2"])
def test_a_run_goes_on_bit_for_bit(mesh):
    assert_resumes_bitwise(tiny(mesh=mesh, length=Steps(6)), stops=(1, 4))


def test_sabotage_rows_that_depend_on_the_process_are_noticed():
    with pytest.raises(AssertionError, match="the losses differ from step"):
        assert_resumes_bitwise(tiny(mesh="data=1", data=Forgetful(), length=Steps(4)), stops=(2,))
