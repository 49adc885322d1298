"""The guard that every test runs under."""

import time

import pytest
from blockbuster import BlockingError


async def test_a_blocking_call_on_the_event_loop_fails_the_test():
    with pytest.raises(BlockingError):
        time.sleep(0.001)  # noqa: ASYNC251


def test_a_blocking_call_off_the_event_loop_is_fine():
    time.sleep(0.001)
