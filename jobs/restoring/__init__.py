"""Putting rows and definitions of a backup into a database, empty or in use."""
