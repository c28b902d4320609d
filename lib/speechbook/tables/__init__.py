"""What the chapters say in tables and single numbers, read from committed rows."""

import pandas as pd

pd.set_option("display.max_colwidth", None)  # the tables of the book's pages are shown whole
