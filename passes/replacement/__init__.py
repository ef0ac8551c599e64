"""Passes that write one operator by others, for engines and tools that know only those."""
