"""Measurements: each file is a script, `python benchmarks/NAME.py`, from any folder."""
