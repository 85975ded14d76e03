"""Graph generation."""
