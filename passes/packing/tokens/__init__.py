"""Where a graph keeps its tokens, and which nodes treat each token alone.

In: a graph with symbolic shapes. Out: the token axes of every tensor, the side of every node (packed or unpacked), the
inputs that mask, and the FLOPs on either side. Nothing here changes the graph.
"""
