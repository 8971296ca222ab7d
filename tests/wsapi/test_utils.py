"""Small functions that programs use."""

from __future__ import annotations

import base64
import socket

from wsapi import utils


def test_keys() -> None:
    assert len(base64.b64decode(utils.generate_key(), validate=True)) == 16
    assert utils.generate_key() != utils.generate_key()
    # RFC 6455 section 1.3
    assert utils.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_mask() -> None:
    assert utils.apply_mask(b"\x01\x02\x03\x04\x05", b"\x01\x01\x01\x01") == b"\0\3\2\5\4"


def test_socket_names() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert utils.get_socket_name(sock) == f"127.0.0.1:{sock.getsockname()[1]}"
