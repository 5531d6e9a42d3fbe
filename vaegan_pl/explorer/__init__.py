"""The page in a browser: what it does with a model, what it knows of the training images, and what it shows."""
