"""The engine alone, with a blocking socket: send a message, print what comes back.

This is how to use it where none of the front-ends fits.

Usage: sans_io.py [URL]
"""

import socket
import sys

from wsproto_fast import ClientProtocol, Frame, Opcode, State
from wsproto_fast.uri import parse_uri


def exchange(sock: socket.socket, protocol: ClientProtocol) -> None:
    """Send what the protocol wants to send; give it what is received."""
    for data in protocol.data_to_send():
        if data:
            sock.sendall(data)
        else:
            sock.shutdown(socket.SHUT_WR)
    if data := sock.recv(65536):
        protocol.receive_data(data)
    else:
        protocol.receive_eof()


def main(url: str = "ws://127.0.0.1:8765") -> None:
    uri = parse_uri(url)
    protocol = ClientProtocol(uri)
    with socket.create_connection((uri.host, uri.port), timeout=10) as sock:
        protocol.send_request(protocol.connect())
        while protocol.state is State.CONNECTING:
            exchange(sock, protocol)
        if protocol.handshake_exc is not None:
            raise protocol.handshake_exc
        protocol.send_text(b"Hello!")
        while protocol.state is not State.CLOSED:
            exchange(sock, protocol)
            for event in protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    print(bytes(event.data).decode())
                    protocol.send_close(1000)
    print(protocol.close_exc)


if __name__ == "__main__":
    main(*sys.argv[1:])
