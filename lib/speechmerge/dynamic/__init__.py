"""Models that are merged, or asked together, while they listen: which weights for this clip."""
