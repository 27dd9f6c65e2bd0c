"""By what registrations can be ordered, the most first."""

ORDERS = ("bytes_per_s", "packets_per_s", "bytes", "packets", "began")
"""`began`: the latest first."""
