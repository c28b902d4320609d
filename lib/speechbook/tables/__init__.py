"""What the chapters say in tables and single numbers, read from committed rows."""
