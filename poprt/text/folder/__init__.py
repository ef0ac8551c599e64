"""From a folder that transformers or sentence-transformers saved and exported to an executable.

:mod:`.files` reads the folder, :mod:`.modules` what sentence-transformers says of pooling. :mod:`.task` decides what
the model is for, :mod:`.limits` how long a text may be. :mod:`.head` adds pooling to the graph, :mod:`.pack` does all.
"""
