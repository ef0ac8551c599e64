"""What is checked of a model before any pass sees it, and how a failed pass finds out that the model is to blame."""
