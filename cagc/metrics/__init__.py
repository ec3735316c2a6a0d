"""Counts of multiply-accumulates and parameters, and measures of how good a generator's images are."""
