"""Pictures -> latents of a VAE, written in the packed layout."""
