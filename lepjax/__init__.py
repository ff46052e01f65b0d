"""lepjax: train, tune, compress and serve JAX models whose numbers can be trusted."""

__version__ = "0.1.0"
