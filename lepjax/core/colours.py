"""The colours of all pictures."""

BLUE, ORANGE, GREEN, PURPLE = "#2563a8", "#d1611b", "#2b8a55", "#8a3b8f"
GREY, RED = "#9aa3ad", "#c0392b"
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
