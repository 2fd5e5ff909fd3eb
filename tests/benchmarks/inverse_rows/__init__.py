"""The rows of the table of the inverse, a file for each kind of figure."""
