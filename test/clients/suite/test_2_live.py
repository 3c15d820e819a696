"""Live jobs."""

import pytest
from conftest import job


@pytest.mark.parametrize("channel", [1, 50, 100, 200])
def test_configure_channels(post, channel):
    assert post("/configure", job(channel)).status_code == 200


@pytest.mark.parametrize("height", [100, 200, 400])
def test_live_monitoring_height(post, height):
    assert post("/configure", {**job(), "displayInfo": {"height": height}}).status_code == 200


@pytest.mark.parametrize("channel", [7, 8])
def test_singlechannel_view(post, channel):
    assert post("/configure", {**job(), "channels": {"min": channel, "max": channel}}).status_code == 200


def test_waterfall_first_rows(post):
    assert post("/configure", {**job(), "displayTimeAxisDuration": 10}).json()["job_id"]


def test_waterfall_many_rows(post):
    assert post("/configure", {**job(), "displayTimeAxisDuration": 60}).json()["job_id"]


@pytest.mark.needs_fiber
def test_marked_by_hand(post):
    assert post("/configure", job()).status_code == 200
