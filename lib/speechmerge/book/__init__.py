"""What the book is made with: notebooks, pages, figures, tables and cards."""

import pandas as pd

pd.set_option("display.max_colwidth", None)  # the tables of its pages are shown whole
