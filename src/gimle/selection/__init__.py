"""Which model serves, and why. Knows models, facts and reasons, and never makes a call. Imports trust and below."""
