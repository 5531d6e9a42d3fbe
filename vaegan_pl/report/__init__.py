"""What people look at: captioned grids of images and plots of the losses."""
