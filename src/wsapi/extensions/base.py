"""Base classes of extensions and of their factories."""

from typing import TYPE_CHECKING

from wsproto_fast.aliases import fallback
from wsproto_fast.extensions.base import ClientExtensionFactory, Extension, ServerExtensionFactory

__all__ = ["ClientExtensionFactory", "Extension", "ServerExtensionFactory"]

if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
