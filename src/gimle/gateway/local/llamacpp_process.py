"""The whole life of a process that serves one model with llama.cpp. It is run as a file, and imports nothing of Gimle.

It reads what to do as JSON on its standard input, so that its key stands in no list of processes, says where it serves
on its standard output, and leaves when its standard input ends.
"""

import json
import os
import resource
import sys
from typing import Any

# A status that means: this model can't be served, and trying again won't help.
REFUSED = 3
# Each connection holds a thread for as long as it is open, so there must be more of them than calls that wait.
_HTTP_THREADS = 48
_ERRORS_ONLY = 1


def main() -> None:
    """Serve until the parent lets go."""
    # Nobody wants a core as large as the model.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    plan = json.loads(sys.stdin.buffer.readline())
    import xllamacpp

    try:
        server = xllamacpp.Server(_parameters(plan, xllamacpp))
    except RuntimeError:
        # It has said why, in its own words, on standard error.
        sys.stderr.flush()
        os._exit(REFUSED)
    sys.stdout.write(json.dumps({"ready": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)


def _parameters(plan: dict[str, Any], library: Any) -> Any:
    chosen = library.CommonParams()
    chosen.model.path = plan["model"]
    chosen.model_alias = {plan["name"]}
    chosen.hostnames, chosen.port, chosen.api_keys = ["127.0.0.1"], plan["port"], [plan["key"]]
    chosen.n_parallel, chosen.n_ctx = plan["slots"], plan["context"] * plan["slots"]
    # The memory was counted before; no part of it shall be decided anew here.
    chosen.fit_params, chosen.cache_ram_mib = False, 0
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = plan["threads"]
    chosen.n_threads_http = _HTTP_THREADS
    chosen.no_extra_bufts = not plan["copies"]
    chosen.endpoint_slots = chosen.endpoint_metrics = True
    chosen.ui, chosen.verbosity = False, _ERRORS_ONLY
    if plan["kind"] in ("embedding", "rerank"):
        chosen.embedding = True
        # A text of the whole window must fit into one batch.
        chosen.n_batch = chosen.n_ubatch = plan["context"]
    if plan["kind"] == "rerank":
        chosen.pooling_type = library.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    if plan["projector"] is not None:
        chosen.mmproj.path = plan["projector"]
    return chosen


if __name__ == "__main__":
    main()
