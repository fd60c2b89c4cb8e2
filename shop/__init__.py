"""A web shop: a real application for Neverstale to serve, good without any cache."""
