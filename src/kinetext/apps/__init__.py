"""Verbs that use finished parts: what the command line and services call."""
