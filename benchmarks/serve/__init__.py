"""Texts over HTTP and in process: poprt's server and ``TextModel`` against others on the same folder.

:mod:`.contenders` says how each server is started, :mod:`.server` starts it and counts its CPU time. :mod:`.generator`
sends the load, in a process of its own, over the connections of :mod:`.http_client`. :mod:`.measure` does all of that.
:mod:`.encode` compares in process, with :mod:`.encoders`. :mod:`.shells` are the servers that are written here.
"""
