"""Which worker answered a conversation last."""

from local_gateway.backends.runpod.affinity import Affinity


def test_the_last_worker_is_remembered() -> None:
    """Each conversation has its own."""
    affinity = Affinity()
    for conversation, worker_id in [("a", "w1"), ("b", "w1"), ("a", "w2")]:
        affinity.remember(conversation, worker_id)

    assert [affinity.worker_of(conversation) for conversation in "abc"] == ["w2", "w1", ""]


def test_nothing_to_remember() -> None:
    """Requests without a conversation share no worker."""
    affinity = Affinity()
    affinity.remember("", "w1")
    affinity.remember("a", "")

    assert (affinity.worker_of(""), affinity.worker_of("a"), len(affinity)) == ("", "", 0)


def test_it_is_bounded() -> None:
    """What was neither asked for nor answered for longest is forgotten."""
    affinity = Affinity(max_conversations=2)
    affinity.remember("a", "w1")
    affinity.remember("b", "w2")
    affinity.worker_of("a")
    affinity.remember("c", "w3")

    assert [affinity.worker_of(conversation) for conversation in "abc"] == ["w1", "", "w3"]
