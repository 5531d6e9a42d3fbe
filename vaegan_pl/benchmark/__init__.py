"""The speed of training on this machine; nothing that training needs."""
