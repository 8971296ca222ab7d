"""WebSocket clients and servers on trio (extra ``trio``)."""
