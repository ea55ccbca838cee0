"""The names a model is served under."""

import time

from handler.api.openai_types import Model
from handler.errors import ModelNotFoundError


class ServedNames:
    """One model under one or more names, and its adapters, each under one of its own. The first name is what answers
    call the model."""

    def __init__(self, names: tuple[str, ...], adapters: tuple[str, ...] = ()) -> None:
        self.names = names
        self.adapters = adapters
        self._created = int(time.time())

    def resolve(self, requested: str | None) -> str:
        """The name to answer with: as asked for, or the first. Raises ModelNotFoundError."""
        if requested is None:
            return self.names[0]
        if requested not in self._all:
            served = ", ".join(self._all)
            raise ModelNotFoundError(
                f"The model {requested[:80]!r} does not exist here; served: {served}.", param="model"
            )
        return requested

    def adapter(self, requested: str | None) -> str | None:
        """The adapter that this name means; None for the model as it is. Raises ModelNotFoundError."""
        name = self.resolve(requested)
        return name if name in self.adapters else None

    @property
    def _all(self) -> tuple[str, ...]:
        return self.names + self.adapters

    def models(self) -> dict[str, object]:
        return {"object": "list", "data": [self.model(name) for name in self._all]}

    def model(self, name: str) -> dict[str, object]:
        self.resolve(name)
        model = Model(id=name, created=self._created, object="model", owned_by="owner").model_dump(exclude_unset=True)
        return {**model, "parent": self.names[0]} if name in self.adapters else model  # vLLM's field
