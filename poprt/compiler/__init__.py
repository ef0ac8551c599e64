"""From a converted model to an executable for one engine."""
