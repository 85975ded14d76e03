"""Language models of molecules as strings."""
