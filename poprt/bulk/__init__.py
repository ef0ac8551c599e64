"""Bulk jobs: all texts of a file in, a file with their embeddings out, in pieces that survive an interruption."""
