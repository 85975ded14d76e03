"""Layers and helpers of networks that several methods need."""
