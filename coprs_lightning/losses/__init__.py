"""Loss functions: pure, stateless, tensor in, tensor out."""
