"""The commands `poprt` and `poprt_exec`."""
