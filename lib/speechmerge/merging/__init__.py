"""Merge methods, and the engine that applies them to checkpoints tensor by tensor."""
