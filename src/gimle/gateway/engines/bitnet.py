"""The server of microsoft/BitNet, for files in its own i2_s format, which no other engine reads.

Nothing of it can be installed from a package index: it is built on each machine. `engines.bitnet` names the program
that the build leaves, `build/bin/llama-server`; Gimle then starts, watches and stops it. One that runs already is a
provider like any other: `[providers.bitnet-server]`. It is an early llama.cpp: it knows neither tools nor JSON
schemas, and its streams end without `[DONE]`.
"""

import os
from pathlib import Path

from gimle.foundation.config import EngineSettings
from gimle.gateway.local.serving import Serving
from gimle.gateway.local.types import Launch, Plan


def missing(settings: EngineSettings) -> str | None:
    """What is to be set."""
    if settings.bitnet is None:
        return "BitNet's server is not set: name its llama-server as engines.bitnet"
    program = Path(settings.bitnet).expanduser()
    if not (program.is_file() and os.access(program, os.X_OK)):
        return f"engines.bitnet names no program: {program}"
    return None


def launch(plan: Plan, settings: EngineSettings) -> Launch:
    """The program, with the flags that its own start script gives it."""
    program = Path(settings.bitnet or "").expanduser()
    flags = {
        "-m": plan.model, "-c": plan.context * plan.slots, "-t": plan.threads, "-np": plan.slots, "-ngl": 0,
        "--host": "127.0.0.1", "--port": plan.port, "--api-key-file": plan.key_file,
    }  # fmt: skip
    return Launch(
        command=(str(program), *(str(word) for pair in flags.items() for word in pair), "-cb"),
        environment={"OMP_WAIT_POLICY": "PASSIVE"},
    )


SERVING = Serving(missing=missing, launch=launch)
