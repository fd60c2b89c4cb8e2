"""The shop's JSON interface, one router a subject."""
