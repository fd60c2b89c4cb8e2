"""Middleware for web frameworks; nothing here imports one."""
