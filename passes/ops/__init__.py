"""ops passes."""
