"""What every other room stands on: configuration, errors, database, files, processes. Imports nothing of ours."""
