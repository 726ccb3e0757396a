"""Answers to single questions. Each module is a pytest plugin that `-p` loads when it is asked."""
