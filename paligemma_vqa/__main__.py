"""`python -m paligemma_vqa` is `paligemma-vqa`."""
from .cli import main

main()
