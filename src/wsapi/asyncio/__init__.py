"""WebSocket clients and servers on an asyncio event loop."""
