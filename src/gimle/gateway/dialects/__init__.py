"""The wire formats: a module each, pure, both directions; each holds a `DIALECT` (`gateway.types.Dialect`)."""
