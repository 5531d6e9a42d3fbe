"""The page in the browser: what it does with a model, what it knows about training images, and what it shows."""
