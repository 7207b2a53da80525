"""`python -m hsae_hub`: the command `hsae`, where something wants a module, such as torchrun."""

from hsae_hub.cli.main import main

main()
