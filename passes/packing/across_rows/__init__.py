"""Samples laid end to end: the rewrite that puts Unpack and Repack between the two sides.

In: token axes and the side of every node. Out: the graph with one crossing a tensor, shape arithmetic built anew, and
the reasons for each Unpack.
"""
