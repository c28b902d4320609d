"""Choosing a merge by speech: from experts and what they should hear to one model, its recipe and a report."""
