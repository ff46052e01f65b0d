"""The largest batch that fits is the largest, and a step was really taken with it."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax import tune
from lepjax.core.errors import UserError
from lepjax.experiment import build
from lepjax.models.mlp import Mlp
from lepjax.tune import batch_finder
from lepjax.tune.batch_finder import BatchSizes, Point, Trials, find_batch, largest_fitting, smaller
from lepjax.tune.memory import HOST_SHARE, device_memory, host_memory
from tests.tune.squares import Points, squares


def counted(needed):
    asked = []

    def ask(rows):
        if rows not in asked:
            asked.append(rows)
        return needed(rows)

    return ask, asked


def by_hand(needed, limit, multiple, most):
    return max((rows for rows in range(multiple, most + 1, multiple) if needed(rows) <= limit), default=0)


@given(
    base=st.integers(0, 500),
    slope=st.integers(1, 20),
    bend=st.integers(0, 3),
    limit=st.integers(0, 20_000),
    multiple=st.integers(1, 12),
    start=st.integers(1, 300),
    most=st.integers(12, 1500),
)
def test_it_is_the_largest(base, slope, bend, limit, multiple, start, most):
    def needed(rows):
        return base + slope * rows + bend * rows**2 / 100 + 64 * (rows // 128)

    ask, asked = counted(needed)
    assert largest_fitting(ask, limit, multiple, start, most) == by_hand(needed, limit, multiple, most)
    assert len(asked) <= 2 * most.bit_length() + batch_finder.GUESSES and all(rows % multiple == 0 for rows in asked)


def test_on_a_straight_line_few_sizes_are_compiled():
    ask, asked = counted(lambda rows: 1000 + 7 * rows)
    assert largest_fitting(ask, 1000 + 7 * 5000, 8, 4096, 100_000) == 5000
    assert asked == [4096, 8192, 5000, 5008]


def test_where_the_compiler_refuses_it_bisects():
    ask, asked = counted(lambda rows: rows if rows <= 300 else float("inf"))
    assert largest_fitting(ask, 10_000, 4, 64, 100_000) == 300
    assert len(asked) < 14


@pytest.fixture(scope="module")
def experiment():
    return squares(model=Mlp(features=4, hidden=(64,), num_labels=1), data=Points(batch_size=64))


@pytest.fixture(scope="module")
def trials(experiment):
    return Trials(build(experiment))


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(batch_finder, "SECONDS", 1e-9)


def test_a_step_needs_more_for_more_rows(trials):
    small, large = trials.needed(64), trials.needed(128)
    activations = 64 * 4 * 64  # float32 of 64 rows that the backward pass needs, at least
    assert small > 2 * 4 * (4 * 64 + 64 + 64 + 1), "parameters and momentum"
    assert large - small > activations


def test_a_limit_of_memory_decides(experiment, trials, quickly):
    limit = trials.needed(200)
    found = find_batch(experiment, limit=limit, sizes=2)
    assert (found.largest, found.needed, found.limit, found.bound) == (200, limit, limit, "memory")
    assert [point.rows for point in found.points] == [128, 200]
    assert all(point.seconds > 0 and point.per_second > 0 for point in found.points) and found.unit == "examples"


def test_sabotage_a_byte_less_is_a_smaller_batch(experiment, trials, quickly):
    assert find_batch(experiment, limit=trials.needed(200) - 1, sizes=1).largest == 192


def test_there_are_no_more_records(experiment, quickly):
    found = tune.find_batch(experiment, most=100, sizes=2)
    assert (found.largest, found.bound) == (96, "records")


class Small:
    """A step on a device that has memory for `rows` rows, whatever the compiler said."""

    def __init__(self, step, rows, message):
        self.step, self.rows, self.message = step, rows, message

    def __call__(self, state, batch):
        if len(batch["weight"]) > self.rows:
            raise jax.errors.JaxRuntimeError(self.message)
        return self.step(state, batch)

    def __getattr__(self, name):
        return getattr(self.step, name)


def on_a_small_device(monkeypatch, rows, message):
    real = batch_finder.compile_step
    monkeypatch.setattr(batch_finder, "compile_step", lambda *arguments: Small(real(*arguments), rows, message))


def test_where_the_step_runs_out_of_memory_the_batch_is_halved(experiment, quickly, monkeypatch):
    on_a_small_device(monkeypatch, 60, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes")
    found = find_batch(experiment, most=96, sizes=1)
    assert (found.largest, found.bound) == (48, "memory")


def test_where_nothing_fits_it_says_so(experiment, quickly, monkeypatch):
    with pytest.raises(UserError, match=r"a batch of 8 rows needs [\d,]+ bytes per device, there are 1,000"):
        find_batch(experiment, limit=1000, most=64)
    on_a_small_device(monkeypatch, 4, "RESOURCE_EXHAUSTED: Out of memory")
    with pytest.raises(UserError, match="even the smallest batch runs out of memory"):
        find_batch(experiment, most=16)


def test_sabotage_another_error_is_not_taken_for_memory(experiment, quickly, monkeypatch):
    on_a_small_device(monkeypatch, 60, "INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        find_batch(experiment, most=96)


def test_too_few_rows_for_the_mesh():
    experiment = squares(mesh="data=4", accumulate=4)
    with pytest.raises(UserError, match="batch finder: 15 rows. Allow 16 or more: devices x microbatches"):
        find_batch(experiment, most=15)


def test_sizes_that_are_measured():
    assert smaller(1080, 1, 7) == [8, 16, 32, 64, 128, 256, 512] and smaller(1080, 1, 0) == []
    assert smaller(1024, 1, 7)[-1] == 512 and smaller(48, 12, 7) == [12, 24] and smaller(8, 8, 7) == []


def test_the_knee_is_the_smallest_that_is_fast():
    points = tuple(Point(rows, 1.0, speed) for rows, speed in ((8, 10.0), (16, 95.0), (32, 100.0), (64, 91.0)))
    assert BatchSizes(64, 0, 0, points, "examples", "memory").knee == 16


# ---- memory ----


def test_what_a_host_has(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    3000 kB\n")
    assert host_memory(tmp_path) == 3000 * 1024
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert host_memory(tmp_path) == 3000 * 1024
    (group / "memory.max").write_text("5000\n")
    assert host_memory(tmp_path) == 4000


class Device:
    platform, device_kind = "gpu", "a GPU"

    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_what_a_device_has():
    assert 0.8 < device_memory(jax.devices()[0], 2) * 2 / (HOST_SHARE * host_memory()) < 1.25
    assert device_memory(Device({"bytes_limit": 1000}), 8) == 900
    with pytest.raises(UserError, match="a GPU: does not tell"):
        device_memory(Device(None), 1)
