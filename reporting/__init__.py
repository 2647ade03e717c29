"""Runs read back, beside the paper's numbers."""
