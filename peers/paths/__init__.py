"""The direct path: finding, proving, choosing and keeping it (docs/protocol.md §13).

Everything here but the driver is pure: it takes bytes and `now`, and returns what to do.
"""
