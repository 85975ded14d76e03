"""GAug: data augmentation for graph neural networks by edge prediction (Zhao et al., AAAI 2021)."""

from zoo.gaug.module_m import GAugM
from zoo.gaug.module_o import GAugO

__all__ = ["GAugM", "GAugO"]
