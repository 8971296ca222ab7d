"""WebSocket clients and servers for threads, without an event loop."""
