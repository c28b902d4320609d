"""Experiments: from a table in YAML to steps of work, and from finished steps to committed rows."""
