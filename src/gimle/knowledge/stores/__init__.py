"""Where vectors are kept, a file a store.

A store offers `text_hash`, `put`, `reuse`, `done`, `forget`, `nearest` and `tend`, and is reached through
`gimle.foundation.plugins`.
"""
