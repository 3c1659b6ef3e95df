"""The wire formats: a file each, pure, both directions; each holds a `DIALECT` (`gateway.types.Dialect`)."""
