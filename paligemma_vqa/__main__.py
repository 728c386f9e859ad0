"""`python -m paligemma_vqa` is `paligemma-vqa`."""
from .command.program import main

main()
