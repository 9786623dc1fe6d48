"""Parity with the published code: `python -m tests.parity FOLDER [--family vit] [--chunk 7]`."""
