"""The diffusion model's forward process, loss and reverse process."""
