"""A small bookshop, and how it gets its cache: `stepN.py` is the whole application after step N of docs/tutorial.md.

`python -m examples.bookshop` measures every step and prints the table of that page; `uvicorn
examples.bookshop.step3:app` serves one step, with the database and the Redis of the environment.
"""
