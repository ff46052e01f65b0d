"""What config.json of the Llama family means, and what is refused. Parity with transformers: tests/parity."""

import pytest

from lepjax.core.errors import UserError
from lepjax.models.llama import Llama
from lepjax.models.llama_family import (
    LlamaArchitecture,
    MistralArchitecture,
    Qwen2Architecture,
    Qwen3Architecture,
    architecture,
)
from lepjax.ops.rope import Linear, Llama3, Rope

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}


def read(model_type="llama", **config):
    return architecture({"model_type": model_type, **SIZES, **config}, "config.json")


def test_what_older_files_leave_out():
    arch = read()
    assert (arch.kv_heads, arch.size, arch.rope, arch.tied) == (4, 8, Rope(), False)
    assert read(head_dim=8) == arch and read(head_dim=16).size == 16


@pytest.mark.parametrize("kind", [LlamaArchitecture, Qwen2Architecture, Qwen3Architecture, MistralArchitecture])
@pytest.mark.parametrize("rope", [Rope(), Rope(5e5, Llama3(8.0, 1.0, 4.0, 32)), Rope(2e4, Linear(4.0))])
def test_what_is_written_is_read(kind, rope):
    sizes = {"vocab_size": 61, "width": 32, "mlp_width": 48, "layers": 2, "heads": 4, "kv_heads": 2, "context": 64}
    for window in (0, 9) if kind.windowed else (0,):
        arch = kind(**sizes, rope=rope, window=window)
        assert architecture(arch.config(), "config.json") == arch


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (("mistral", {"sliding_window": 9}), 9),
        (("mistral", {"sliding_window": None}), 0),
        (("mistral", {}), 0),
        (("llama", {"sliding_window": 9}), 0),
        (("qwen2", {"sliding_window": 9}), 0),
        (("qwen2", {"sliding_window": 9, "use_sliding_window": False}), 0),
        (("qwen2", {"sliding_window": 9, "use_sliding_window": True}), 0),  # from layer 28 on, of 4
        (("qwen3", {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 0}), 9),
        (("qwen3", {"sliding_window": 9, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 4}), 9),
        (("qwen3", {"sliding_window": 9, "use_sliding_window": True, "layer_types": ["full_attention"] * 4}), 0),
    ],
)
def test_windows(config, window):
    model_type, values = config
    assert read(model_type, **values).window == window


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma"}, "model_type 'gemma' is not supported. Known: llama, qwen2, qwen3, mistral"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"mlp_bias": True}, "mlp_bias True is not supported"),
        ({"attention_bias": True}, "attention_bias True is not supported"),
        ({"vocab_size": None}, "has no 'vocab_size'"),
        ({"hidden_size": "wide"}, "hidden_size 'wide' is no number"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type 'longrope' is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope_type 'linear' without a factor"),
        ({"num_key_value_heads": 3}, "4 heads do not share 3 key heads evenly"),
        ({"num_attention_heads": 5}, "width 32 is not a multiple of 5 heads"),
        ({"head_dim": 7}, "heads of odd size 7 cannot be rotated"),
        (
            {"model_type": "qwen2", "sliding_window": 9, "use_sliding_window": True, "max_window_layers": 2},
            "a sliding window in some layers only",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        read(**config)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(UserError, match="model.dropout: 1.5 is no rate"):
        Llama(dropout=1.5)
