"""Pruners: which trials are worth going on with. One file per pruner, named as people ask for it (`--pruner asha`)."""
