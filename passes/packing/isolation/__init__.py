"""Proof that no answer depends on how far a sample was padded, nor on the other samples of its run.

In: a graph whose token axes and placement are known. Out: which samples may share a run, and the nodes that allow no
more. :mod:`.values` says what is known of a set of numbers, :mod:`.facts` what is known of a tensor, the rule modules
what an operator makes of that, and :mod:`.proof` walks the graph.
"""
