"""The entry point: `rowvault`, or `python -m daemon`."""

import gc


def main() -> None:
    """Load the commands, then run the one that was given.

    What loads is no garbage, and stays until the end: to look for garbage in it would take a fifth of the
    time that most commands take.
    """
    gc.disable()
    from daemon import cli

    gc.freeze()
    gc.enable()
    cli.main()


if __name__ == "__main__":
    main()
