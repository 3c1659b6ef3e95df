"""HTTP: connections and inference routes without a framework, and Litestar for all else."""
