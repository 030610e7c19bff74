"""The command line: verbs, and sentences for what goes wrong."""
