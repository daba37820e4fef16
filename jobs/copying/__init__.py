"""Streams between the database and stored objects."""
