"""The providers that come with Gimle: data, a TOML file each, in the schema of `gateway.types.Provider`."""
