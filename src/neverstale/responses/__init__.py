"""HTTP caching for the answers of one application, after RFC 9111: pure decisions, no I/O, no framework.

- `keys`: one key for all ways to write a request.
- `fields`: reading header fields.
- `rules`: what the application says about its own routes.
- `storing`: what of an answer may be stored, how long it lives, what a 304 makes of it.
- `serving`: whether a stored answer may be given to a request, and what is sent then.
- `stored`: the form in Redis.

Not known here: Redis, ASGI, event loops. `neverstale.web.asgi` puts it together.
"""
