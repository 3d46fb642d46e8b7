"""What tests of runs share."""

from __future__ import annotations

import pytest


@pytest.fixture
def opened():
    """Opens checkpoints, and closes them in the end."""
    made = []

    def open_one(how, *arguments):
        made.append(how(*arguments))
        return made[-1]

    yield open_one
    for checkpoint in made:
        checkpoint.close()
