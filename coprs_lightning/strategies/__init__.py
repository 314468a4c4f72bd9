"""Lightning strategies for models that one device cannot hold, and what the module does under them."""
