"""Tests that work while the fiber is missing."""

import pytest

PATHS = ["/ack", "/channels", "/live_metadata", "/get_recordings_timeline", "/openapi.json"]


@pytest.mark.parametrize("path", PATHS)
def test_reads(get, path):
    assert get(path).status_code == 200


def test_ack_is_empty(get):
    assert get("/ack").content == b""


def test_channels_are_a_range(get):
    channels = get("/channels").json()
    assert channels["lowest_channel"] < channels["highest_channel"]


def test_metadata_has_a_rate(get):
    assert "prr" in get("/live_metadata").json()


def test_metadata_has_a_version(get):
    assert "sw_version" in get("/live_metadata").json()


def test_unknown_job(get):
    assert get("/metadata/no-such-job").status_code == 404


def test_recordings_are_pairs(post):
    answer = post("/recordings_in_time_range", {"start_time": 1, "end_time": 2_000_000_000})
    assert all(start < end for start, end in answer.json())


def test_faulty_time_range(post):
    assert post("/recordings_in_time_range", {}).status_code == 422
