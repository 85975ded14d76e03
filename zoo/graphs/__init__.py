"""Graph neural networks by output level, after the survey of Wu et al. (2021)."""
