"""`python -m paligemma_vqa` is `paligemma-vqa`."""
from .command.cli import main

main()
