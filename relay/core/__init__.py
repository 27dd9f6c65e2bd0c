"""Pure decisions of the relay: no socket, no clock, no logger, no asyncio. Time is an argument."""
