"""What the files of poprt say, as records that both writer and reader import.

In: nothing but the standard library, so that the thin runtime can import it. Out: the record that the passes write into
a packed model, and that the manifest of an executable repeats.
"""
