"""From a request to what the engine understands of it."""

from handler.api.protocol import NO_LIMIT, GenerationRequest
from handler.engine.sampling_params import SamplingParams

ANY_SEED = -1  # llama.cpp's and vLLM's word for none


def sampling_params(request: GenerationRequest, default_tokens: int | None = None) -> SamplingParams:
    """Field by field, so that types are checked; defaults are the engine's already.

    `default_tokens` limits the answer where the request does not; None: as many as the context leaves.
    """
    wanted = request.wanted
    limit = default_tokens if request.token_limit is None else request.token_limit
    return SamplingParams(
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        typical_p=request.typical_p,
        repeat_penalty=request.repeat_penalty,
        repeat_last_n=request.repeat_last_n,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        dry_multiplier=request.dry_multiplier,
        dry_base=request.dry_base,
        dry_allowed_length=request.dry_allowed_length,
        dry_penalty_last_n=request.dry_penalty_last_n,
        dry_sequence_breakers=request.dry_sequence_breakers,
        xtc_probability=request.xtc_probability,
        xtc_threshold=request.xtc_threshold,
        logit_bias=request.logit_bias,
        seed=None if request.seed == ANY_SEED else request.seed,
        max_tokens=None if limit == NO_LIMIT else limit,
        min_tokens=request.min_tokens,
        stop=request.stop,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=request.ignore_eos,
        num_logprobs=request.num_logprobs,
        num_prompt_logprobs=request.num_prompt_logprobs,
        has_end_logprob=request.echoes_logprobs,
        constraint=wanted.constraint if wanted else None,
    )
