"""A network as a small set of operations, traced from a PyTorch module, on its way into a file."""
