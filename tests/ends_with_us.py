"""Servers of tests that end when pytest is killed."""

ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""What stands before a server's command: the kernel then kills the server with the thread that
started it. Of util-linux; it is the same process, so signals and its pid are the server's.
"""
