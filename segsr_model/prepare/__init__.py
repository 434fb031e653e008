"""``segsr prepare``: from a downloaded archive, or any folder of images, to HR and LR training pairs."""
