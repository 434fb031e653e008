"""``segsr profile``: what a network costs."""
