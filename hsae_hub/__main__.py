"""The command `hsae`, and `python -m hsae_hub` where something wants a module, such as torchrun."""

import sys


def main() -> None:
    """Runs the command; Ctrl-C while it is still being imported ends it as quietly as later."""
    try:
        from hsae_hub.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
