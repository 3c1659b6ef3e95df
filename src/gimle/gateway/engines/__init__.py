"""The engines that run in the process itself: a file each, found by name."""
