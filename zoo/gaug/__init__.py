"""GAug: data augmentation for graph neural networks by edge prediction (Zhao et al., AAAI 2021)."""
