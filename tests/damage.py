"""Damaging checkpoints."""

import pathlib


def flip_a_bit(folder: pathlib.Path) -> None:
    """In the middle of the largest file of a step's parameters."""
    victim = max((p for p in (folder / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
