"""Figures of the book: drawing, style, captions, and what is published with a figure."""
