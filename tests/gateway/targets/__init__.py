"""Fake targets in three depths: never asked, scripted in this process, and on a socket."""
