"""The tags of all that is cached: caching.py says which answers carry them, models.py which rows they stand for."""

from __future__ import annotations

__all__ = ["CATEGORIES", "DELETIONS", "ORDERS", "PAST_ORDERS", "PRODUCTS", "REVIEWS", "USERS"]

PRODUCTS = "products"
CATEGORIES = "categories"
ORDERS = "orders"  # the running day's, and with them the day of the newest
PAST_ORDERS = "past-orders"  # of days that are over
DELETIONS = "deletions"  # of products: what they sold stays in the books, but leaves the reports by product
REVIEWS = "reviews"
USERS = "users"
