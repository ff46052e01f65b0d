"""Samplers: where the next trial is. One file per sampler, named as people ask for it (`--sampler tpe`)."""
