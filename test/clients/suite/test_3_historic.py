"""Replays of stored data, which are also refused while the fiber is missing."""

import pytest
from conftest import BASE_URL, job


@pytest.fixture(scope="module")
def recording(session):
    """An existing recording."""
    body = {"start_time": 1, "end_time": 2_000_000_000}
    return session.post(f"{BASE_URL}/recordings_in_time_range", json=body, timeout=60).json()[0]


@pytest.mark.parametrize("channel", [1, 2, 3, 4, 5, 6])
def test_configure_replay(post, recording, channel):
    start, end = recording
    assert post("/configure", job(channel, int(start), int(end))).status_code == 200


def test_configure_replay_of_nothing(post):
    assert post("/configure", job(1, 1, 2)).status_code == 404


def test_configure_faulty_replay(post):
    assert post("/configure", {"start_time": 1, "end_time": 2}).status_code == 422
