"""precision passes."""
