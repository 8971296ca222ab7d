"""The client for browsers, which ``gateway`` gives to them, and what is imported by a name.

A broker isn't: a program that gives the URL of a bus names its module as a hidden import.
"""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("wsapi.topics", subdir="browser")
hiddenimports = ["wsapi.topics._asyncio"]
