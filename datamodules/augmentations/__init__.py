"""Changes of training examples that keep their questions true."""
