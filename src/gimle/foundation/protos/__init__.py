"""The messages of `proto/gimle/v1` as Python: written by scripts/generate.py, never by hand, and read with protobuf."""
