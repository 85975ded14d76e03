"""Molecules by representation, after the review of Atz, Grisoni & Schneider (2021): a folder per task."""

from __future__ import annotations

from zoo.declaration import Family, Method, lazy

FAMILY = Family("Molecules", page="molecules")

METHODS: tuple[Method, ...] = ()

__getattr__ = lazy(__name__, METHODS)
