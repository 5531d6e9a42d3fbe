"""Folders of images, phantoms drawn into such folders, and the LightningDataModule that reads both."""
