"""What proves: claims re-tested over seeds, searches, the manifest of results."""
