"""llama.cpp's own server, as the wheel ``xllamacpp`` has it: ``llama_server.py GGUF CONTEXT SLOTS [ALIAS [KEY]]``.

Prints its address once the model is loaded, and serves until its standard input is closed.
"""

import sys

import xllamacpp

if __name__ == "__main__":
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel = int(sys.argv[2]), int(sys.argv[3])
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.ui = False
    if len(sys.argv) > 4:
        params.model_alias = {sys.argv[4]}
    if len(sys.argv) > 5:
        params.api_keys = [sys.argv[5]]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
