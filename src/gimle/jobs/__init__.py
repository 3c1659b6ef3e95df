"""Durable jobs: work that survives the death of any process and repeats no effect. May import foundation only."""
