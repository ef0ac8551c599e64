"""packing passes."""
