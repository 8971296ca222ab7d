"""What ``wsapi`` imports when it is asked for, by a name that is computed."""

from PyInstaller.utils.hooks import collect_submodules

# What is of use only to who imports it, and may import what is large.
APART = ("_pyinstaller", "asgi", "cli", "metrics", "testing", "topics", "trio", "uvicorn")

hiddenimports = collect_submodules(
    "wsapi", filter=lambda name: not name.startswith(tuple(f"wsapi.{part}" for part in APART))
)
