"""From a request to what the engine understands of it."""

from dataclasses import fields

from handler.api.protocol import GenerationRequest
from handler.engine.sampling_params import SamplingParams


def sampling_params(request: GenerationRequest) -> SamplingParams:
    """A request has every field under the engine's name, with the engine's default where the client said nothing."""
    return SamplingParams(**{field.name: getattr(request, field.name) for field in fields(SamplingParams)})
