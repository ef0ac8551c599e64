"""Measurements of poprt against honest baselines, its peers and the machine's roof: ``python -m benchmarks --help``."""
