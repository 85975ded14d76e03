"""Clips with pictures and sound: the files of AudioSet, VGGSound, Epic-Kitchens, ... and embedded digits."""

CLASSES = {
    "AudioVisual": "module",
}
"""Public data modules -> the module of this package that defines them."""
