"""MBT: the Multimodal Bottleneck Transformer of audio and video."""

from zoo.mbt.module import MBT

__all__ = ["MBT"]
