"""Neverstale: a Redis caching layer whose invalidation can be trusted."""
