"""What an operator sees, and may do: over HTTP on a TCP port of its own, never the public one.

app.py is the application, server.py serves it, service.py holds all together in a running relay;
top.py is the same in a terminal. docs/operating.md.
"""
