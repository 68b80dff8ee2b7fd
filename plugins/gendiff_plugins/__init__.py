"""The built-in plugins of gendiff: each sub-package is one entry point of the group ``gendiff``."""
