"""Decoding, scoring, and how sure a score is."""
