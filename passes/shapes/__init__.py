"""shapes passes."""
