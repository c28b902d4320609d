"""The study behind the book, and the book: experiments, what was measured, tables, figures, pages."""
