from __future__ import annotations

import os

import pytest
from kurrentdbclient import KurrentDBClient
from support import cluster_url


@pytest.fixture(scope="session")
def url() -> str:
    found = os.environ.get("ANNALS_URL") or cluster_url()
    if not found:
        pytest.exit("set ANNALS_URL, for example kurrentdb://127.0.0.1:2113?tls=false", 2)
    return found


@pytest.fixture(scope="session")
def client(url):
    with KurrentDBClient(url) as client:
        yield client


@pytest.fixture
def here(client) -> int:
    """The end of the log before the scenario: everything it writes comes after."""
    return client.get_commit_position(filter_exclude=())


def pytest_collection_modifyitems(items):
    """Scenarios that kill a leader come last: the others share one connection."""
    items.sort(key=lambda item: item.path.name in ("test_cluster.py", "test_groups_under_kills.py"))
