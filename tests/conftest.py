"""Settings shared by all tests."""

import os

from hypothesis import settings

# Machines differ in speed: no deadline per example. CI runs the same examples every time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
