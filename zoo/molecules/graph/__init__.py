"""Properties of molecules from their graphs and descriptors."""
