"""Stand-ins that several modules of this room's tests use."""

from __future__ import annotations

import pytest
from subjects_standins import ByteTokenizer


@pytest.fixture
def byte_tokenizer():
    return ByteTokenizer()
