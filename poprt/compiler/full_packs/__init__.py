"""Packs without padding: what a graph may leave out where all samples of a run are of one length and nothing is masked.

Enters: a graph as :class:`~poprt.compiler.head_gathers.GatherHeads` leaves it. Leaves: one whose attention asks, as it
runs, whether the pack is full.
"""
