"""Models on this machine: fetched, kept, and served by processes that Gimle starts, watches and stops.

May import foundation, selection and the nouns of the gateway; the walk of a call knows nothing of it.
"""
