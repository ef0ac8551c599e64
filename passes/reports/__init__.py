"""Passes that print what a model is and change nothing."""
