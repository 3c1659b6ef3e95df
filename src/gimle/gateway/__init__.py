"""One model call, made well and paid right: providers, dialects, engines, streams. Imports selection and below."""
