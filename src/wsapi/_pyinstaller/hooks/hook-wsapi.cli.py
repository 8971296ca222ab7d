"""The commands of ``wsapi``, which are imported when they are used."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("wsapi.cli")
