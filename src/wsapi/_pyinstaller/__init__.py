"""What PyInstaller has to know of ``wsproto_fast`` and ``wsapi``, in the files in ``hooks``.

PyInstaller finds this package by its entry point and reads those whose package a program imports.
Nothing else imports this package.
"""

from pathlib import Path

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """Return where the hooks are."""
    return [str(Path(__file__).with_name("hooks"))]
