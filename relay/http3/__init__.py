"""The relay's HTTP/3 server: hypercorn and aioquic, made fit for hostile clients.

Nothing else in `relay` touches what those two do not offer publicly.
"""
