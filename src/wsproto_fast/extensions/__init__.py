"""Extensions of the protocol (RFC 6455 section 9): what their authors build on.

The package root doesn't import this package, so that its modules may use the compiled classes.
"""

from .base import ClientExtensionFactory, Extension, ServerExtensionFactory

__all__ = ["ClientExtensionFactory", "Extension", "ServerExtensionFactory"]
