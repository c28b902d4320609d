"""What the book is made with: notebooks, pages, figures, tables and cards."""
