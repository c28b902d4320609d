"""Frozen speech models as sources of features: an interface fuses their layers, and a small head learns a task."""
