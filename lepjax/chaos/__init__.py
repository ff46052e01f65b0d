"""Faults on purpose: kills, crash points, damage, signals, full disks and races, judged by the losses that follow.

A command is seen from outside only: its processes, its exit code, its lines and its run directory. Every fault is
judged in fresh processes by the losses of the resumed command, hex for hex against a run that nothing disturbed; never by
the verifier under test. Needs Linux (/proc).
"""
