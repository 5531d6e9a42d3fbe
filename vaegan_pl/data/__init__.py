"""The data: folders of images, phantoms drawn as such folders, and the LightningDataModule over both."""
