"""HTTP: a bare ASGI edge, inference routes without a framework, and Litestar for all else."""
