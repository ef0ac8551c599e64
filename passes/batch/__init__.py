"""Where a graph keeps its batch, and how a graph of fixed batch size takes any.

In: a graph whose shapes are numbers. Out: the axis of each tensor that counts samples, and a graph in which that axis
is open; or the reason why it holds its batch size. What a sample's answer is does not change.
"""
