"""The laboratory: time, networks and relays that a test can bend to its will."""
