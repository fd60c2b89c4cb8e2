"""Drivers: run the protocol's flows on redis-py's clients, on threads or on an event loop."""
