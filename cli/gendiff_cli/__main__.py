"""``python -m gendiff_cli``, also under torchrun."""

from gendiff_cli.app import main

main()
