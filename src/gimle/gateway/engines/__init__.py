"""The engines that come with Gimle, in its process or as children of it: a file each, found by name."""
