"""Settings shared by all tests."""

import os
import signal

from hypothesis import settings

# Machines differ in speed: no deadline per example. CI runs the same examples every time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Programs that tests run, and end by SIGINT, inherit that it is ignored, as it is in the background
# of a shell script.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
