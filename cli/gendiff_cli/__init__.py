"""The command line of gendiff."""
