"""What is held to be true of epolllab, one file a module."""
