"""Graph neural networks of the survey of Wu et al. (2021), a file per task and operator."""
