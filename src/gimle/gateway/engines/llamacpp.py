"""llama.cpp's own server, out of the package xllamacpp: `pip install 'gimle[local]'`.

It runs in a process of its own. A broken file ends that process and never Gimle; and two things must stand in its
environment before it begins: idle threads that sleep instead of spinning (on a busy machine the difference is a factor
of a hundred), and no debugger that starts at a crash.
"""

import importlib.util
import sys
from pathlib import Path

import msgspec

from gimle.foundation.config import EngineSettings
from gimle.gateway.local import llamacpp_process
from gimle.gateway.local.serving import Serving
from gimle.gateway.local.types import Launch, Plan

_PROCESS = str(Path(llamacpp_process.__file__))


def missing(_: EngineSettings) -> str | None:
    """What is to be installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "llama.cpp is not installed: pip install 'gimle[local]'"
    return None


def launch(plan: Plan, _: EngineSettings) -> Launch:
    """A process of this Python that serves the model."""
    return Launch(
        # Isolated: nothing of the working directory or of Gimle itself is loaded into it.
        command=(sys.executable, "-I", _PROCESS),
        environment={"OMP_WAIT_POLICY": "PASSIVE", "GGML_NO_BACKTRACE": "1"},
        told=msgspec.json.encode(plan) + b"\n",
        announces=True,
    )


SERVING = Serving(missing=missing, launch=launch)
