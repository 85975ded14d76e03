"""Clips with pictures and sound: the files of AudioSet, VGGSound, Epic-Kitchens, ... and embedded digits."""
