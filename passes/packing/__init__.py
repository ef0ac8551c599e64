"""The two passes that pack, and the rooms that they build on.

``opening`` makes batch and sequence axes open, ``tokens`` finds who treats each token alone, ``isolation`` proves who
may share a run, ``across_rows`` lays samples end to end, ``within_rows`` lets them share rows.
"""
