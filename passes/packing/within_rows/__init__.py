"""Samples that share rows: the analysis and the rewrite that keep attention within each sample.

In: token axes, and the rows' length. Out: the graph with AttentionMasks, positions read by ``position_ids``, and at
most one final Unpack before a head; or the nodes that cannot be shown to keep samples apart.
"""
