"""The protocol without I/O on plain sockets: both sides, step by step."""

import socket
import threading

from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.uri import parse_uri


def flush(sock, protocol):
    for data in protocol.data_to_send():
        if data:
            sock.sendall(data)
        else:
            sock.shutdown(socket.SHUT_WR)


def receive(sock, protocol):
    data = sock.recv(65536)
    if data:
        protocol.receive_data(data)
    else:
        protocol.receive_eof()
    return protocol.events_received()


def serve(sock):
    protocol = ServerProtocol(subprotocols=["echo"])
    while protocol.state.name != "CLOSED":
        for event in receive(sock, protocol):
            if isinstance(event, Request):
                response = protocol.accept(event)
                response.headers["X-Served"] = "yes"
                protocol.send_response(response)
            elif event.opcode is Opcode.TEXT:
                protocol.send_text(event.data.upper())
        flush(sock, protocol)
    sock.close()


ours, theirs = socket.socketpair()
thread = threading.Thread(target=serve, args=(theirs,))
thread.start()
protocol = ClientProtocol(parse_uri("ws://localhost/path"), subprotocols=["echo"])
request = protocol.connect()
print(request.path, request.headers["Host"], protocol.state.name)
protocol.send_request(request)
flush(ours, protocol)
(response,) = receive(ours, protocol)
print(isinstance(response, Response), response.status_code, response.headers["X-Served"])
print(protocol.state.name, protocol.subprotocol, protocol.handshake_exc)
protocol.send_text(b"hello")
protocol.send_text(b"frag", fin=False)
protocol.send_continuation(b"ment", fin=True)
protocol.send_ping(b"p")
flush(ours, protocol)
events = []
while len(events) < 3:
    events += receive(ours, protocol)
print(sorted((event.opcode.name, bytes(event.data)) for event in events))
protocol.send_close(1000, "done")
flush(ours, protocol)
while protocol.state.name != "CLOSED":
    events += receive(ours, protocol)
    flush(ours, protocol)
print(protocol.close_code, protocol.close_reason, protocol.close_rcvd, protocol.close_expected())
thread.join()
ours.close()
