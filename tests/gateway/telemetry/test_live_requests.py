"""The requests that run at this moment, as people see them."""

from local_gateway.accounts.auth import ANONYMOUS
from local_gateway.accounts.usage import Usage
from local_gateway.config.settings import Price
from local_gateway.telemetry import live_requests
from local_gateway.telemetry.live_requests import NUM_RECENT, LiveRequests
from tests.gateway.targets.never_asked import FakeClock
from tests.gateway.usage_samples import answered

used = Usage(10, 0, 40)


def test_states_of_a_request() -> None:
    """Queued, then a target is asked, which is cold, then its answer comes: with seconds, speed and cost."""
    clock = FakeClock()
    requests = LiveRequests(clock)
    live = requests.begin("req_1", ANONYMOUS, "llama", lambda: used, lambda: None)
    assert (live.view().state, live.view().target) == ("waiting", "")

    clock.now += 1
    live_requests.asking("runpod")
    clock.now += 12
    live_requests.found_cold("runpod")
    view = live.view()
    assert (view.state, view.target, view.waited, view.age, view.cost) == ("cold", "runpod", 12, 13, 0.0)

    live.answering("runpod", Price(completion=1.0, gpu_second=0.5))
    clock.now += 2
    view = live.view()
    assert (view.state, view.num_tokens, view.tokens_per_second) == ("streaming", 40, 20)
    assert view.cost == 40 / 1e6 + 15 * 0.5


def test_next_target_begins_anew() -> None:
    """What was cold is not asked any more."""
    requests = LiveRequests(FakeClock())
    live = requests.begin("req_1", ANONYMOUS, "llama", lambda: used, lambda: None)
    live_requests.asking("runpod")
    live_requests.found_cold("runpod")
    live_requests.asking("openai")
    live_requests.found_cold("runpod")

    assert (live.view().state, live.view().target) == ("waiting", "openai")


def test_cancel_asks_once() -> None:
    left: list[str] = []
    live = LiveRequests(FakeClock()).begin("req_1", ANONYMOUS, "llama", lambda: used, lambda: left.append("left"))
    live.cancel()
    live.cancel()

    assert live.is_cancelled
    assert left == ["left"]


def test_those_that_ended_are_remembered_for_a_while() -> None:
    """The newest first, so many and no more; and what cold starts took."""
    requests = LiveRequests(FakeClock())
    requests.begin("req_0", ANONYMOUS, "llama", lambda: used, lambda: None)
    for number in range(NUM_RECENT + 5):
        requests.ended(
            answered(request_id=f"req_{number}", is_cold=number < 2, first_token_seconds=10.0 + 20.0 * number)
        )

    assert list(requests) == []
    assert requests.find("req_0") is None
    assert len(requests.recent) == NUM_RECENT
    assert requests.recent[0].request_id == f"req_{NUM_RECENT + 4}"
    assert (requests.cold_starts["local:demo"].number, requests.cold_starts["local:demo"].mean) == (2, 20.0)
