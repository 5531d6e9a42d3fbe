"""Train, sample and use the VAE/GAN of Larsen et al. (arXiv 1512.09300) on folders of MRI slices."""

__version__ = "0.1.0"
