"""The protocol: pure flows and the Lua scripts beside them. No I/O, no clock, no threads, no event loop."""
