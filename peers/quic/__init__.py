"""aioquic's connection, made fit for pipes.

Nothing else in `peers` touches what aioquic does not offer publicly.
"""
