"""Swin transformers: ordinary, elastic, and their options."""
