"""What has to be true before a graph can be packed.

In: a model as exported, and what the user says of packs and shapes. Out: the geometry of a pack, and a graph whose
batch and sequence axes are open, with the branches that shapes decide taken. The graph changes; what it computes does
not.
"""
