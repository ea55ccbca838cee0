"""The names a model is served under."""

import time

from handler.api.openai_types import Model
from handler.errors import ModelNotFoundError


class ServedNames:
    """One model under one or more names. The first is what answers call it."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._created = int(time.time())

    def resolve(self, requested: str | None) -> str:
        """The name to answer with: as asked for, or the first. Raises ModelNotFoundError."""
        if requested is None:
            return self.names[0]
        if requested not in self.names:
            served = ", ".join(self.names)
            raise ModelNotFoundError(
                f"The model {requested[:80]!r} does not exist here; served: {served}.", param="model"
            )
        return requested

    def models(self) -> dict[str, object]:
        return {"object": "list", "data": [self.model(name) for name in self.names]}

    def model(self, name: str) -> dict[str, object]:
        self.resolve(name)
        return Model(id=name, created=self._created, object="model", owned_by="owner").model_dump(exclude_unset=True)
