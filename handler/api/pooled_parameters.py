"""The request fields of embeddings and reranking, and what becomes of them: a part of `parameters`'s table.

Names are those of OpenAI, llama-server, vLLM, TEI, Ollama, Jina, Cohere, Voyage and infinity.
"""

from handler.api.fields import Refused

_BOTH = ("model", "truncate", "truncate_prompt_tokens")
EMBEDDINGS = frozenset({*_BOTH, "input", "content", "encoding_format", "dimensions", "normalize", "normalized"})
RERANK = frozenset(
    {*_BOTH, "query", "documents", "docs", "top_n", "return_documents", "return_docs", "raw_scores"},
)

HARMLESS: dict[str, str] = {
    "user": "who asks; nothing is kept",
    "safety_identifier": "who asks; nothing is kept",
    "metadata": "for stored answers",
    "service_tier": "there is one",
    "priority": "vLLM: all requests in turns",
    "request_id": "vLLM: answers have their own",
    "rid": "SGLang: answers have their own",
    "cache_salt": "vLLM: nothing is cached",
    "keep_alive": "Ollama: the model stays loaded",
}

_PREFIX = Refused("write what the model wants before a text into the text.", ("",))
_TEXT_ONLY = Refused("this model reads text only.", ([],))
_BOTH_REFUSED: dict[str, Refused] = {
    "stream": Refused("there is one answer.", (False,)),
    "add_special_tokens": Refused("texts get the model's own beginning and end; send token ids for others.", (True,)),
    "truncation_side": Refused("the end is cut.", ("right",)),
    "truncation_direction": Refused("the end is cut.", ("Right", "right")),
    "instruction": _PREFIX,
    "prompt_name": _PREFIX,
    "task": _PREFIX,
    "input_type": _PREFIX,
    "image": _TEXT_ONLY,
    "images": _TEXT_ONLY,
    "mm_processor_kwargs": Refused("this model reads text only.", ({},)),
    "modality": Refused("this model reads text only.", ("text",)),
    "chat_template": Refused("inputs are texts."),
    "chat_template_kwargs": Refused("inputs are texts.", ({},)),
    "options": Refused("send the options as fields of the request.", ({},)),
    "activation": Refused("use 'normalize', or 'raw_scores'."),
    "use_activation": Refused("use 'normalize', or 'raw_scores'.", (True,)),
}
REFUSED: dict[str, dict[str, Refused]] = {
    "embeddings": _BOTH_REFUSED
    | {
        "messages": Refused("use 'input'."),
        "prompt": Refused("use 'input'."),
        "inputs": Refused("use 'input'."),
        "texts": Refused("use 'input'."),
        "query": Refused("use 'input', or /v1/rerank."),
        "documents": Refused("use 'input', or /v1/rerank."),
        "embd_normalize": Refused("vectors have length 1, or with 'normalize': false the model's own.", (2,)),
        "pooling": Refused("it is the worker's setting POOLING."),
        "embedding_type": Refused("use 'encoding_format'.", ("float",)),
        "embedding_types": Refused("use 'encoding_format'.", (["float"],)),
        "output_dtype": Refused("use 'encoding_format'.", ("float",)),
        "embed_dtype": Refused("vectors are float32.", ("float32",)),
        "endianness": Refused("base64 holds little-endian numbers.", ("native", "little")),
        "output_dimension": Refused("use 'dimensions'."),
        "late_chunking": Refused("inputs are computed apart from each other.", (False,)),
    },
    "rerank": _BOTH_REFUSED
    | {
        "input": Refused("use 'query' and 'documents'."),
        "texts": Refused("use 'documents'."),
        "return_text": Refused("use 'return_documents'.", (False,)),
        "return_embeddings": Refused("use /v1/embeddings.", (False,)),
        "top_k": Refused("use 'top_n'."),
        "rank_fields": Refused("a document is its 'text'.", ([], ["text"])),
        "max_tokens_per_doc": Refused("use 'truncate_prompt_tokens', which counts query and document."),
        "max_chunks_per_doc": Refused("a document is computed in one piece.", (1,)),
        "max_doc_length": Refused("use 'truncate_prompt_tokens', which counts query and document."),
        "max_query_length": Refused("use 'truncate_prompt_tokens', which counts query and document."),
    },
}
