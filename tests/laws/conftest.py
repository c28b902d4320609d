"""The tiny models as fixtures."""

import pytest
from tiny_models import make, measures, statistics


@pytest.fixture(scope="session")
def models() -> tuple[dict, list[dict]]:
    return make()


@pytest.fixture(scope="session")
def extras() -> dict[str, list[dict]]:
    return statistics() | measures(make()[1][1])
