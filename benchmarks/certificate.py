"""TLS for servers and for the load: a certificate that nobody has signed but itself.

Its key is P-256, as is usual now. Made anew by each process: nobody checks it.
"""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path


def server_context() -> ssl.SSLContext:
    """Return the configuration of a server."""
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = trustme.CA().issue_cert("localhost")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "certificate.pem")
        path.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
        context.load_cert_chain(path)
    return context


def client_context() -> ssl.SSLContext:
    """Return the configuration of a client that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
