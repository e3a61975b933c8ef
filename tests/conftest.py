"""What every test run shares."""

import signal


def pytest_configure() -> None:
    """Children take Ctrl-C as they would in a terminal, even where this process was started with SIGINT ignored, as a script's
    background jobs are.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
