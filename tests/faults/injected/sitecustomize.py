"""Python imports this as it starts, in every process that has this folder on its PYTHONPATH."""

import os

if "ISOLOSS_FAULTS" in os.environ:
    from tests.faults.injection import install

    install()
