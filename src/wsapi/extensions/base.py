"""Base classes of extensions and of their factories."""

from wsproto_fast.extensions.base import ClientExtensionFactory, Extension, ServerExtensionFactory

__all__ = ["ClientExtensionFactory", "Extension", "ServerExtensionFactory"]
