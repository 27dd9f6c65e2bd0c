"""The two ends of a pipe: dialer and accepter, for asyncio."""
