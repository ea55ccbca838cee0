"""Which worker answered a conversation last: its prompt is still in that worker's cache."""

from collections import OrderedDict


class Affinity:
    """An LRU cache from conversations to workers. Does not know whether a worker still runs."""

    def __init__(self, max_conversations: int = 10_000) -> None:
        self._max_conversations = max_conversations
        self._workers: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._workers)

    def worker_of(self, conversation: str) -> str:
        """Empty if none is known."""
        if conversation not in self._workers:
            return ""
        self._workers.move_to_end(conversation)
        return self._workers[conversation]

    def remember(self, conversation: str, worker_id: str) -> None:
        """A request without a conversation, or an answer without a worker's id, changes nothing."""
        if not (conversation and worker_id):
            return
        self._workers[conversation] = worker_id
        self._workers.move_to_end(conversation)
        if len(self._workers) > self._max_conversations:
            self._workers.popitem(last=False)
