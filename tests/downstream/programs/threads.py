"""A server and clients in threads: iteration, time limits, pings, and many at once."""

import queue
import threading

from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect
from websockets.sync.server import serve


def echo(websocket):
    for message in websocket:
        if message == "close":
            websocket.close(4000, "as asked")
        else:
            websocket.send(message)


def client(uri, number, results):
    with connect(uri) as websocket:
        for step in range(3):
            websocket.send(f"{number}.{step}")
            results.put(websocket.recv())


with serve(echo, "127.0.0.1", 0) as server:
    uri = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    results = queue.Queue()
    threads = [threading.Thread(target=client, args=(uri, n, results)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    print(sorted(results.queue))
    with connect(uri) as websocket:
        try:
            websocket.recv(timeout=0.3)
        except TimeoutError as exc:
            print("TimeoutError", exc)
        print(websocket.ping().wait(5), websocket.latency > 0)
        websocket.send([b"frag", b"ments"])
        print(list(websocket.recv_streaming()))
        websocket.send("close")
        try:
            while True:
                print(websocket.recv())
        except ConnectionClosedOK as exc:
            print("ok", exc)
        except Exception as exc:
            print(type(exc).__name__, exc)
        print(websocket.close_code, websocket.close_reason, websocket.state.name)
    server.shutdown()
    thread.join()
