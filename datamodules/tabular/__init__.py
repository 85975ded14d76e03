"""Rows of numbers: pairs with known information, columns of a user's table."""

CLASSES = {
    "KnownInformation": "known_information",
    "TableColumns": "columns",
}
"""Public data modules -> the module of this package that defines them."""
