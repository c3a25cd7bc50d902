"""Kernels: how a sequence is computed. One file per kernel; `reference.py` is the oracle."""
