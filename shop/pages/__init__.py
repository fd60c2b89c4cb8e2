"""The shop's HTML pages, one router a subject."""
