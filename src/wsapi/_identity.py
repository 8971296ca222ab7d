"""Tells the engine the name that programs use it by; to be imported before what has settings."""

from wsproto_fast import environment

environment.identify("wsapi")
