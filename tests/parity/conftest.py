import jax
import pytest


@pytest.fixture(scope="module")
def quickly():
    """For many small programs: compiling them takes far longer than running them, and so does waking torch's threads."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
