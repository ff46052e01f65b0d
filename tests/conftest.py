"""Eight simulated CPU devices, a persistent compile cache, and hypothesis without surprises."""

import os
import pathlib

# Before jax is imported: a test process and the processes it starts share one cache of compiled programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")  # compiles 14 % faster; the same XLA passes

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

hypothesis.settings.register_profile("lepjax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("lepjax")


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real data sets; tests skip where it is missing."""
    default = pathlib.Path(__file__).parent.parent.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("LEPJAX_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (set LEPJAX_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def minilm(test_data) -> pathlib.Path:
    """A small pretrained BERT with its tokenizer."""
    return test_data / "weights" / "minilm_l6_fp16"


@pytest.fixture(scope="session")
def tiny_bert(minilm, tmp_path_factory) -> pathlib.Path:
    """A folder with a tiny BERT of random weights and a real vocabulary."""
    from lepjax.models.bert_family import BertArchitecture
    from lepjax.models.face import TOKENIZER_FILES, BertModel

    folder = tmp_path_factory.mktemp("tiny_bert")
    sizes = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 32}
    BertModel.from_config(BertArchitecture(**sizes)).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (minilm / name).is_file():
            (folder / name).write_bytes((minilm / name).read_bytes())
    return folder
