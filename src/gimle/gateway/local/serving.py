"""What an engine is that serves models from processes of its own."""

from collections.abc import Callable

import msgspec

from gimle.foundation.config import EngineSettings
from gimle.gateway.local.types import Launch, Plan


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that serves one model a process, over HTTP. A module in `gateway/engines/` holds it as `SERVING`."""

    # Why it can't run here, and what to do about it; None when it can.
    missing: Callable[[EngineSettings], str | None]
    launch: Callable[[Plan, EngineSettings], Launch]
