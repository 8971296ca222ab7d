"""HTTP Digest authentication of clients (RFC 7616), which answers a challenge of the server.

Owns the grammar of challenges and the computation of answers. Knows nothing of connections, nor of
when an answer is given.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from wsproto_fast.exceptions import InvalidHeaderFormat

__all__ = ["Challenge", "Digest", "parse_challenges"]

_separators = re.compile(r"[\t ,]*")
_token = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_token68 = re.compile(r"[\t ]+([-._~+/0-9a-zA-Z]+=*)[\t ]*(?=,|$)")
_equals = re.compile(r"[\t ]*=[\t ]*")
_quoted_string = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_quoted_pair = re.compile(r"\\(.)", re.DOTALL)
_quotable = re.compile(r'["\\]')

_algorithms: dict[str, Callable[[bytes], str]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
}


@dataclass
class Challenge:
    """A challenge (RFC 9110 §11.3).

    Args:
        scheme: Name of the scheme in lower case.
        parameters: Values by name in lower case, unquoted.
        token68: What stands in the place of parameters.
    """

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)
    token68: str | None = None


def parse_challenges(header: str) -> list[Challenge]:
    """Parse a ``WWW-Authenticate`` header.

    Args:
        header: Value of the header, which may have several challenges.

    Raises:
        InvalidHeaderFormat: If it is malformed.
    """

    def failure(expected: str) -> InvalidHeaderFormat:
        return InvalidHeaderFormat("WWW-Authenticate", f"expected {expected}", header, pos)

    challenges: list[Challenge] = []
    pos = 0
    while True:
        # Commas separate challenges as well as parameters; what follows a name tells them apart.
        separators = _separators.match(header, pos)
        assert separators is not None
        pos = separators.end()
        if pos == len(header):
            return challenges
        token = _token.match(header, pos)
        if token is None:
            raise failure("token")
        name = token.group().lower()
        pos = token.end()
        equals = _equals.match(header, pos)
        if equals is None:
            challenges.append(Challenge(name))
            token68 = _token68.match(header, pos)
            if token68 is not None:
                challenges[-1].token68 = token68[1]
                pos = token68.end()
            elif pos < len(header) and header[pos] not in "\t ,":
                raise failure("space after scheme")
            continue
        if not challenges or challenges[-1].token68 is not None:
            raise failure("scheme")
        pos = equals.end()
        quoted = _quoted_string.match(header, pos)
        if quoted is not None:
            value = _quoted_pair.sub(r"\1", quoted[1])
            pos = quoted.end()
        else:
            token = _token.match(header, pos)
            if token is None:
                raise failure("token or quoted string")
            value = token.group()
            pos = token.end()
        if pos < len(header) and header[pos] not in "\t ,":
            raise failure("comma")
        if name in challenges[-1].parameters:
            raise failure(f"{name} only once")
        challenges[-1].parameters[name] = value


def _quote(value: str) -> str:
    return '"' + _quotable.sub(r"\\\g<0>", value) + '"'


class Digest:
    """Answers to a Digest challenge: MD5 and SHA-256, also in their session variants, qop "auth".

    Args:
        challenge: The challenge.
        username: User name.
        password: Password.

    Raises:
        ValueError: If the challenge isn't one that can be answered.
    """

    def __init__(self, challenge: Challenge, username: str, password: str) -> None:
        parameters = challenge.parameters
        if challenge.scheme != "digest" or not {"realm", "nonce"} <= parameters.keys():
            raise ValueError("not a Digest challenge")
        self._algorithm = parameters.get("algorithm")
        name = (self._algorithm or "MD5").upper()
        self._session = name.endswith("-SESS")
        name = name.removesuffix("-SESS")
        if name not in _algorithms:
            raise ValueError(f"unsupported algorithm: {self._algorithm}")
        self._hash = _algorithms[name]
        qop = parameters.get("qop")
        # Without the parameter the server is one of RFC 2069.
        self._qop = qop is not None
        if qop is not None and "auth" not in re.split(r"[\t ,]+", qop.lower().strip()):
            raise ValueError(f"unsupported qop: {qop}")
        if self._session and not self._qop:
            raise ValueError("session variant without qop")
        self._realm = parameters["realm"]
        self._nonce = parameters["nonce"]
        self._opaque = parameters.get("opaque")
        self._username = username
        self._userhash = parameters.get("userhash", "").lower() == "true"
        # RFC 7616 §3.4.2 and §3.4.3. Bytes of headers are ISO-8859-1 here, so that this restores
        # those of the realm, whatever they mean.
        self._raw_realm = self._realm.encode("iso-8859-1")
        self._raw_username = username.encode("utf-8", "surrogateescape")
        self._secret = self._hash(
            b":".join(
                [
                    self._raw_username,
                    self._raw_realm,
                    password.encode("utf-8", "surrogateescape"),
                ]
            )
        )
        self._count = 0

    @classmethod
    def from_headers(cls, headers: Iterable[str], username: str, password: str) -> Digest | None:
        """Choose from the challenges of an answer the first one that is supported.

        Args:
            headers: Values of the ``WWW-Authenticate`` headers; malformed ones are skipped.
            username: User name.
            password: Password.

        Returns:
            None when there is none.
        """
        for header in headers:
            try:
                challenges = parse_challenges(header)
            except InvalidHeaderFormat:
                continue
            for challenge in challenges:
                try:
                    return cls(challenge, username, password)
                except ValueError:
                    continue
        return None

    def authorization(self, method: str, target: str, cnonce: str | None = None) -> str:
        """Return an ``Authorization`` header for the next request.

        Args:
            method: Method of the request.
            target: Target of the request, as on the request line.
            cnonce: Nonce of the client, a random one by default.
        """
        if cnonce is None:
            cnonce = os.urandom(16).hex()
        self._count += 1
        count = f"{self._count:08x}"
        hash = self._hash
        nonce = self._nonce.encode("iso-8859-1")
        secret = self._secret
        if self._session:
            secret = hash(b":".join([secret.encode(), nonce, cnonce.encode()]))
        what = hash(f"{method}:{target}".encode())
        if self._qop:
            parts = [nonce, count.encode(), cnonce.encode(), b"auth", what.encode()]
        else:
            parts = [nonce, what.encode()]
        response = hash(b":".join([secret.encode(), *parts]))

        if self._userhash:
            username = _quote(hash(b":".join([self._raw_username, self._raw_realm])))
            parameters = [f"username={username}"]
        elif self._username.isascii() and self._username.isprintable():
            parameters = [f"username={_quote(self._username)}"]
        else:
            # RFC 7616 §3.4, RFC 8187 §3.2
            quoted = urllib.parse.quote(self._raw_username, safe="")
            parameters = [f"username*=UTF-8''{quoted}"]
        parameters += [
            f"realm={_quote(self._realm)}",
            f"uri={_quote(target)}",
        ]
        if self._algorithm is not None:
            parameters.append(f"algorithm={self._algorithm}")
        parameters.append(f"nonce={_quote(self._nonce)}")
        if self._qop:
            parameters += [f"nc={count}", f"cnonce={_quote(cnonce)}", "qop=auth"]
        parameters.append(f"response={_quote(response)}")
        if self._opaque is not None:
            parameters.append(f"opaque={_quote(self._opaque)}")
        if self._userhash:
            parameters.append("userhash=true")
        return "Digest " + ", ".join(parameters)
