"""Chapter 2: paint a cell, then try what the server doesn't accept.

Usage: paint2.py [URL]
"""

import json
import sys

from wsapi.exceptions import ConnectionClosedError
from wsapi.sync.client import connect

url = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765"
with connect(url) as connection:
    for message in (
        json.dumps({"type": "paint", "x": 3, "y": 4, "colour": 5}),
        json.dumps({"type": "paint", "x": 32, "y": 4, "colour": 5}),
        json.dumps({"type": "erase"}),
        "hello",
        "hello " * 1000,
    ):
        connection.send(message)
        try:
            print(connection.recv(timeout=10))
        except ConnectionClosedError as exc:
            print("closed:", exc)
