"""The sandbox for asyncio and trio, written by hand; ``_sync`` is generated from it."""
