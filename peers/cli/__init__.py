"""The command `quicpipe`."""
