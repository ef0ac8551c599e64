"""Imports every built-in pass, so that it registers. Importing this module is what `get_registered_passes` does."""
