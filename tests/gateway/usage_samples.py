"""Usage records for tests."""

from typing import Any

from local_gateway.accounts.usage import UsageRecord

NOON = 1_795_348_800.0  # 2026-11-22 12:00 UTC


def record_of(**fields: Any) -> UsageRecord:
    """A request that went well, at noon."""
    defaults = {"time": NOON, "request_id": "r", "path": "/chat/completions", "status": 200, "outcome": "ok"}
    return UsageRecord(**{**defaults, **fields})


def paid(key_id: str, cost: float, **fields: Any) -> UsageRecord:
    """One that cost a key money."""
    return record_of(key_id=key_id, key_name=f"name of {key_id}", cost=cost, **fields)


def answered(**fields: Any) -> UsageRecord:
    """One that the worker on this machine answered as `llama`."""
    llama = {"request_id": "req_1", "alias": "llama", "model": "llama", "target": "local:demo"}
    return record_of(**{**llama, "total_seconds": 2.0, "num_attempts": 1, **fields})
