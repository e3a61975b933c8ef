"""What every test run shares."""

import os
import signal

from hypothesis import settings

#: A gate says the same of the same commit: its examples are drawn from a fixed seed. Elsewhere every run tries new ones.
settings.register_profile("gate", derandomize=True)
if os.environ.get("ISOLOSS_RUN_EVERY_TEST"):
    settings.load_profile("gate")


def pytest_configure() -> None:
    """Children take Ctrl-C as they would in a terminal, even where this process was started with SIGINT ignored, as a script's
    background jobs are.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
