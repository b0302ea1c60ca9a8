"""The exhibits (tables and figures) of the three papers, with results of this package."""
