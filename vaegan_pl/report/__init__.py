"""Reports for people: HTML pages, captioned grids of images, plots and model cards."""
