"""RAS: reverse attention for salient object detection (Chen et al., ECCV 2018; TIP 2020)."""

from zoo.ras.module import RAS

__all__ = ["RAS"]
