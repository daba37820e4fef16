"""Becomes another program, as another user if asked, that is killed when the process that started it ends.

Run by its path, as `python -I -S child.py PARENT UID GID PROGRAM ARGUMENT…`; a negative UID keeps the user.
A program of its own, and not a `preexec_fn`: that may deadlock beside threads, and uvloop takes no `user`.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(uid: int, gid: int) -> None:
    """Give up root for good: no supplementary groups, then the group, then the user."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int) -> None:
    """Ask Linux for SIGQUIT once the parent is gone (prctl(2)); elsewhere there is nothing to ask."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")


def main() -> None:
    """Change what is asked for, then become the program."""
    parent, uid, gid = (int(word) for word in sys.argv[1:4])
    command = sys.argv[4:]
    try:
        if uid >= 0:
            become(uid, gid)
        die_with(parent)
        os.execv(command[0], command)  # noqa: S606 -- the caller's own list, no shell
    except OSError as error:
        sys.exit(f"cannot run {command[0]} as user id {os.getuid()}: {error.strerror}")


if __name__ == "__main__":
    main()
