"""report passes."""
