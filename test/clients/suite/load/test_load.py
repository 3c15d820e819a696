"""A few jobs at the same time."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import job


@pytest.mark.parametrize("users", [1, 2, 3, 4])
def test_users_configure(post, users):
    with ThreadPoolExecutor(users) as threads:
        answers = list(threads.map(lambda channel: post("/configure", job(channel + 1)), range(users)))
    assert [answer.status_code for answer in answers] == [200] * users


@pytest.mark.parametrize("users", [1, 2, 4, 8])
def test_users_read(get, users):
    with ThreadPoolExecutor(users) as threads:
        answers = list(threads.map(lambda _: get("/live_metadata"), range(users)))
    assert all(answer.json()["prr"] > 0 for answer in answers)
