"""The commands `poprt` and `poprt_exec`: options, progress and tables; no graph code."""
