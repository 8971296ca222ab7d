"""Chapter 1: paint a cell, and ask for the colours of two.

Usage: paint1.py [URL]
"""

import sys

from wsapi.sync.client import connect

url = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765"
with connect(url) as connection:
    for message in ("3 4 5", "3 4", "0 0"):
        connection.send(message)
        print(message, "->", connection.recv(timeout=10))
