"""The ids of a model's tokens that end an answer, as JSON: python benchmarks/end_tokens.py model.gguf

A program, run by the interpreter of the server that is to be told of them: llama.cpp stays out of the load client.
"""

import json
import sys

import llama_cpp


def end_tokens(path: str) -> list[int]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    vocab = llama_cpp.llama_model_get_vocab(llama_cpp.llama_model_load_from_file(path.encode(), params))
    return [number for number in range(llama_cpp.llama_vocab_n_tokens(vocab)) if is_end(vocab, number)]


def is_end(vocab: object, number: int) -> bool:
    return bool(llama_cpp.llama_vocab_is_eog(vocab, number))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(end_tokens(sys.argv[1])))
