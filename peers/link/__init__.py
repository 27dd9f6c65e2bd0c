"""The connection to the relay: found, kept up, and found again."""
