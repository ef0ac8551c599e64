"""Packing: run what treats every token alone on tokens laid end to end, all else on one row a sample."""
